# SPDX-License-Identifier: Apache-2.0
"""
A real guest on the lab: what tracing adds, ours against the two bpftrace scripts that would be written by hand.

fio in one guest: random reads and writes of 4 KiB, 32 in flight.  The phases alternate, so that all drift alike.  Where
guests are emulated, a virtual CPU always runs, and its noise exceeds the cost of any probe.  So QEMU's CPU time is also
reported without its virtual CPUs, which no probe runs in.
"""

import os
import tempfile
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from bench.bpftrace import Bpftrace
from bench.cpu import process_ns, vcpu_ns
from bench.figures import Figure, Samples, added, ratios
from bench.kernel import run_times, run_times_counted
from tests.lab.disk import Disk
from tests.lab.guest import Guest
from tests.lab.lab import Lab
from tests.lab.load import fio_random
from tests.lab.tracing import Tracing

PHASE_S = 8.0
AIM_RATIO = 0.25
NAME = "bench"

Tracers = AbstractContextManager["list[int]"]
"""Entered, it traces; the value is the tracers' process ids."""


@dataclass(frozen=True)
class Phase:
    """The cost of one phase per request."""

    iops: float
    qemu_us: float
    without_vcpus_us: float
    tracer_us: float
    bpf_us: float


def measure(repetitions: int) -> list[Figure]:
    """Requests per second, and CPU time per request of QEMU, the tracer and the BPF programs, by tracer."""
    with tempfile.TemporaryDirectory(prefix="otel-qemu-bench-") as folder:
        with Lab.up(Path(tempfile.gettempdir()) / f"otel-qemu-bench-lab-{os.getpid()}") as lab:
            disk = Disk(NAME, size_mib=256)
            guest = lab.guest(NAME, [disk])
            device = guest.device(disk)
            fio_random(guest, device, rw="write", block_bytes=1 << 20, requests=256)  # so that reads find objects
            return summarised(_phases(guest, device, Path(folder), repetitions))


def _phases(guest: Guest, device: str, folder: Path, repetitions: int) -> dict[str, list[Phase]]:
    phases = defaultdict(list)
    for _ in range(repetitions):
        for name, tracing in _tracers(guest.pid, folder).items():
            phases[name].append(_phase(guest, device, tracing))
    return dict(phases)


def _tracers(pid: int, folder: Path) -> dict[str, Callable[[], Tracers]]:
    chosen = ("--pid", str(pid))
    return {
        "untraced": lambda: nullcontext([]),
        "counting": lambda: Ours("hist", *chosen),
        "keeping_all": lambda: Ours("record", *chosen, "-o", str(folder / "records")),
        "auditing": lambda: Ours("record", "--audit", *chosen, "-o", str(folder / "audited")),
        "bpftrace": lambda: Bpftrace(pid, folder),
    }


class Ours(Tracing):
    """`otel-qemu`, as a value for `Tracers`."""

    def __enter__(self) -> list[int]:  # type: ignore[override]
        super().__enter__()
        return [self.process.pid]


def _phase(guest: Guest, device: str, tracing: Callable[[], Tracers]) -> Phase:
    pid = guest.pid
    with run_times_counted(), tracing() as tracers:
        before = _spent(pid, tracers)
        counts = fio_random(guest, device, runtime_s=PHASE_S)
        after = _spent(pid, tracers)
    requests = counts.reads + counts.writes
    qemu, vcpus, tracer, bpf = (1e-3 * (late - early) / requests for early, late in zip(before, after, strict=True))
    return Phase(requests / PHASE_S, qemu, qemu - vcpus, tracer, bpf)


def _spent(pid: int, tracers: list[int]) -> tuple[int, int, int, int]:
    """CPU ns so far: QEMU, of that its virtual CPUs, the tracers, and of QEMU's the BPF programs."""
    bpf = sum(time.ns for tracer in tracers for time in run_times(tracer).values())
    return process_ns(pid), vcpu_ns(pid), sum(map(process_ns, tracers)), bpf


def summarised(phases: dict[str, list[Phase]]) -> list[Figure]:
    """The means of each phase, and what a tracer adds per request: in QEMU without its virtual CPUs, and in itself."""
    figures = []
    for name, some in phases.items():
        for quantity in Phase.__dataclass_fields__:
            if name != "untraced" or quantity not in ("tracer_us", "bpf_us"):
                figures.append(Figure.of(f"{name}_{quantity}", [getattr(phase, quantity) for phase in some]))
    spent: Samples = {name: [p.without_vcpus_us + p.tracer_us for p in some] for name, some in phases.items()}
    total = {name: added(spent, name, "untraced") for name in spent if name != "untraced"}
    figures += [Figure.of(f"{name}_added_us", values) for name, values in total.items()]
    for name in ("counting", "keeping_all"):
        quotients = ratios(total[name], total["bpftrace"])
        if quotients:
            figures.append(Figure.of(f"{name}_to_bpftrace_ratio", quotients, AIM_RATIO))
    return figures
