# SPDX-License-Identifier: Apache-2.0
"""The sidecar's own CPU time, beyond the probes, which are on QEMU's account."""

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from bench.cpu import process_ns
from bench.figures import Figure
from tests.kernel.fake_qemu import FakeQemu
from tests.lab.tracing import Tracing

RATE_PER_S, BUSY_S, IDLE_S = 20_000, 20, 60
AIM_BUSY_PERCENT, AIM_IDLE_PERCENT = 1.0, 0.5
KEEPING = ("--one-in", "1000", "--slow", "100ms")


def measure(repetitions: int) -> list[Figure]:
    """Percent of one core while nothing happens and at 20,000 requests a second."""
    idle, busy, reached = [], [], []
    with ExitStack() as undo:
        folder = undo.enter_context(tempfile.TemporaryDirectory(prefix="otel-qemu-bench-"))
        qemu = undo.enter_context(FakeQemu())
        command = ("record", "-o", str(Path(folder) / "records"), "--pid", str(qemu.pid), *KEEPING)
        sidecar = undo.enter_context(Tracing(*command)).process.pid
        for _ in range(repetitions):
            idle.append(_idle_percent(sidecar))
            percent, rate = _busy_percent(sidecar, qemu)
            busy.append(percent)
            reached.append(rate)
    return [
        Figure.of("idle_percent", idle, AIM_IDLE_PERCENT),
        Figure.of("busy_percent", busy, AIM_BUSY_PERCENT),
        Figure.of("busy_requests_per_s", reached),
    ]


def _idle_percent(pid: int) -> float:
    before, start = process_ns(pid), time.monotonic_ns()
    time.sleep(IDLE_S)
    return percent(process_ns(pid) - before, time.monotonic_ns() - start)


def _busy_percent(pid: int, qemu: FakeQemu) -> tuple[float, float]:
    before = process_ns(pid)
    answer = qemu.command(f"rate {RATE_PER_S} {BUSY_S}")
    return percent(process_ns(pid) - before, answer.elapsed_ns), answer.requests / answer.elapsed_ns * 1e9


def percent(cpu_ns: int, elapsed_ns: int) -> float:
    """Of one core."""
    return 100 * cpu_ns / elapsed_ns
