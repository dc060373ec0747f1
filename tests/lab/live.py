# SPDX-License-Identifier: Apache-2.0
"""
A tracer in the test's own process, on a guest of the lab: its tables can be looked into while requests hang.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, wait
from contextlib import contextmanager

import numpy as np

from otel_qemu.events import Batch
from otel_qemu.probe.program import Program
from otel_qemu.probe.selection import Selection
from otel_qemu.probe.tracer import Tracer
from otel_qemu.trace.correlate import Correlator
from otel_qemu.trace.scsi import OPERATIONS
from otel_qemu.trace.traces import Traces
from tests.kernel.tracing import join
from tests.lab.guest import Guest
from tests.lab.lab import Lab

READERS = 7
HELD_S = 3.0  # longer than QEMU takes to answer on a busy machine
READ = "dd if=/dev/sda of=/dev/null bs=4k count=1 skip={} iflag=direct > /dev/null 2>&1 &"


def wait_until(condition: Callable[[], object], timeout_s: float = 120) -> None:
    """Wait until it is so, and fail where it is not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


@contextmanager
def traced(guest: Guest, load_program: Callable[[bool], Program] = Program) -> Iterator[Tracer]:
    with Tracer(Selection(pids=(guest.pid,)), load_program=load_program) as tracer:
        tracer.refresh()
        yield tracer


@contextmanager
def frozen_cluster(lab: Lab) -> Iterator[None]:
    """An OSD that does not answer, so that reads stay in flight."""
    lab.ceph.pause_osd()
    try:
        yield
    finally:
        lab.ceph.resume_osd()


def read_in_flight(guest: Guest, tracer: Tracer) -> None:
    """Let the guest read while nobody answers."""
    guest.run("\n".join(READ.format(1000 + 16 * number) for number in range(READERS)))
    wait_until(lambda: len(tracer.in_flight()) == READERS)


def await_held(guest: Guest, pool: Executor) -> None:
    """Wait until QEMU's main loop stands still, as it does while a reset or an unplug waits for what is in flight."""
    wait_until(lambda: wait([pool.submit(guest.qmp, {"execute": "query-status"})], HELD_S).not_done)


def ended(tracer: Tracer, count: int, operation: str = "READ") -> Traces:
    """The requests of an operation that end from now on, with their calls, once there are as many."""
    those = ending(tracer, operation)
    wait_until(lambda: len(those().requests) >= count)
    return those()


def ending(tracer: Tracer, operation: str = "READ") -> Callable[[], Traces]:
    """A function that gives the requests of an operation that have ended since it was made, with their calls."""
    read = [tracer.read().records]

    def those() -> Traces:
        read.append(tracer.read().records)
        records = np.concatenate(read)
        traces = join(Correlator(), Batch(records, 0), len(records) or 1)
        return traces.only(np.flatnonzero(traces.requests["operation"] == OPERATIONS.index(operation)))

    return those
