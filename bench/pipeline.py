# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.pipeline``: requests a second from records to sampled traces, and beside it the usual way."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import click
import numpy as np

from bench.callback import Script
from bench.figures import Figure, Samples, as_json, print_table, ratios
from bench.machine import machine
from bench.workload import Shape, records_of
from otel_qemu.events import MOST_AT_ONCE, RECORD, Batch, Kept
from otel_qemu.trace.histograms import Histograms
from otel_qemu.trace.hung import HungRequests
from otel_qemu.trace.pipeline import Pipeline
from otel_qemu.trace.recording import Recording, RecordingWriter
from otel_qemu.trace.sample import Sampler

USUAL = Shape()
LIVELY = replace(USUAL, requests=200_000, rate_per_s=50_000, mean_s=0.002, kept=Kept.JOINED_LATER)
SHAPES = {
    "usual": USUAL,
    "kept_all": replace(USUAL, requests=500_000),
    "many_calls": replace(USUAL, requests=100_000, calls_each=8),
    "unwalked": replace(LIVELY, walked=False),
    "unwalked_deep": replace(LIVELY, walked=False, mean_s=0.02),
}
"""What is run: errors, slow ones and one in a thousand; all; qcow2's many calls; no walk, 100 and 1,000 in flight."""

ONE_IN, MOST_PER_S = 1000, 100.0
AIM_NS, AIM_SHARE, AIM_MEMORY_MB = 1000, 1 / 20, 100
IN_FLIGHT = int(USUAL.rate_per_s * USUAL.mean_s)
DRAINED = 100_000
"""Records that one reading of the ring gives at such rates."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--requests", type=click.IntRange(1000), default=USUAL.requests, show_default=True, help="Of the usual.")
@click.option("--repetitions", type=click.IntRange(1), default=3, show_default=True, help="Of each phase, in turn.")
@click.option("--json", "to_json", is_flag=True, help="One object of plain numbers.")
@click.option("--memory-of", type=click.Path(path_type=Path), hidden=True)
def main(requests: int, repetitions: int, to_json: bool, memory_of: Path | None) -> None:
    """Measure on one core; medians and minima of alternating repetitions, in CPU time."""
    if memory_of:
        click.echo(grown_mb(memory_of))
        return
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    figures = measure(requests, repetitions)
    if to_json:
        click.echo(json.dumps({"machine": machine(), "pipeline": as_json(figures)}))
    else:
        print_table("pipeline: decode, join, split, histograms, sampling, on one core", figures, sys.stdout)


def measure(requests: int, repetitions: int) -> list[Figure]:
    """Every shape, and the usual way on the usual shape; the recordings are made and written first."""
    samples: Samples = {}
    with tempfile.TemporaryDirectory(prefix="otel-qemu-bench-") as folder:
        paths = {name: Path(folder) / name for name in SHAPES}
        for name, shape in SHAPES.items():
            write(paths[name], replace(shape, requests=requests) if name == "usual" else shape)
        for _ in range(repetitions):
            for name, path in paths.items():
                samples.setdefault(name, []).append(ours_ns(path, name))
            samples.setdefault("callback", []).append(callback_ns(paths["usual"]))
            samples.setdefault("memory", []).append(memory_mb(paths["usual"].with_suffix(".raw")))
    return summarised(samples)


def summarised(samples: Samples) -> list[Figure]:
    """The figures of the samples, in ns per request."""
    figures = [Figure.of(f"{name}_ns", samples[name], AIM_NS if name == "usual" else None) for name in SHAPES]
    rates = (Figure.of(f"{name}_requests_per_s", [1e9 / ns for ns in samples[name]]) for name in (*SHAPES, "callback"))
    share = Figure.of("usual_to_callback_ratio", ratios(samples["usual"], samples["callback"]), AIM_SHARE)
    memory = Figure.of("usual_memory_mb", samples["memory"], AIM_MEMORY_MB)
    return [*figures, Figure.of("callback_ns", samples["callback"]), *rates, share, memory]


def write(path: Path, shape: Shape) -> None:
    """A recording of such a shape, batch by batch, and beside it its records alone."""
    records = records_of(shape)
    records.tofile(path.with_suffix(".raw"))
    with RecordingWriter(path, {}) as writer:
        for at in range(0, len(records), MOST_AT_ONCE):
            writer.write(Batch(records[at : at + MOST_AT_ONCE], 0))


def ours_ns(path: Path, name: str) -> float:
    """CPU time of a whole recording, per request."""
    sampler = Sampler(1) if name == "kept_all" else Sampler(ONE_IN, MOST_PER_S)
    recording, before = Recording.open(path), time.process_time_ns()
    requests = run(recording.batches(), sampler, Histograms())
    return (time.process_time_ns() - before) / requests


def run(batches: Iterable[Batch], sampler: Sampler, histograms: Histograms) -> int:
    """Records into sampled traces, as the service does it; how many requests there were."""
    requests = 0
    for traces in Pipeline().traces_of(batches):
        requests += len(traces.by_request)
        histograms.add(traces)
        kept = sampler.sample(traces)
        _ = kept.requests, kept.calls  # rows are made when they are asked for, as by who sends them
    return requests


def callback_ns(path: Path) -> float:
    """The same records through a callback each."""
    recording, script = Recording.open(path), Script(ONE_IN)
    before = time.process_time_ns()
    for batch in recording.batches():
        script.consume(batch.records)
    return (time.process_time_ns() - before) / script.requests


def memory_mb(path: Path) -> float:
    """By how much a process grows that does nothing else."""
    command = [sys.executable, "-m", "bench.pipeline", "--memory-of", str(path)]
    return float(subprocess.run(command, capture_output=True, check=True).stdout)


def grown_mb(path: Path) -> float:
    """
    To how much this process's memory grows while it drains records, and looks at all in flight for some that hang.

    They are read, not mapped: a file's pages would be counted as well, and the ring gives copies.
    """
    sampler, histograms, before = Sampler(ONE_IN, MOST_PER_S), Histograms(), status_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak (proc(5))
    run(drained(path), sampler, histograms)
    HungRequests().select(np.zeros(IN_FLIGHT, dtype=RECORD), 0)
    return status_mb("VmHWM") - before


def drained(path: Path) -> Iterator[Batch]:
    """Records from a file as the ring gives them, `DRAINED` at a time."""
    with path.open("rb") as file:
        while len(records := np.fromfile(file, RECORD, DRAINED)):
            yield Batch(records, 0)


def status_mb(name: str) -> float:
    """A line of /proc/self/status, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024 / 1e6


if __name__ == "__main__":
    main()
