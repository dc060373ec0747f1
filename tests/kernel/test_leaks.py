# SPDX-License-Identifier: Apache-2.0
"""A million requests with every ending go through the kernel's tables and the correlator, and nothing remains."""

import time
from pathlib import Path

from otel_qemu.trace.correlate import Correlator
from tests.kernel.fake_qemu import FakeQemu
from tests.kernel.tracing import Tracing

ROUND = (
    "read 20000 4096 32", "write 20000 65536 32", "flat-read 5000 512", "fua 5000", "flush 5000", "unmap 500 5",
    "zero 2500", "inquiry 10000", "fail 5000", "check-condition 5000", "early-fail 5000", "cancel 5000",
    "retry 2500", "retry-data 2500", "orphan 5000",
)  # fmt: skip
MILLION = 1_000_000
MOST_GROWTH_BYTES = 16 << 20
"""Of the whole process, which allocates and frees gigabytes of records on the way."""


def resident_bytes() -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) << 10


def play(tracing: Tracing, qemu: FakeQemu, correlator: Correlator) -> int:
    """Play one round, drained as the service does; return the number of its requests."""
    requests = 0
    for command in ROUND:
        qemu.begin(command)
        while not qemu.answered:
            correlator.feed(tracing.tracer.read())
            time.sleep(0.01)
        requests += qemu.answer().requests
        correlator.feed(tracing.tracer.read())
    return requests


def test_nothing_of_a_million_requests_stays() -> None:
    """Tables are empty, the correlator holds nothing, and memory is as after the first round."""
    correlator = Correlator()
    with FakeQemu() as qemu, Tracing(qemu) as tracing:
        requests = play(tracing, qemu, correlator)
        before_bytes = resident_bytes()
        while requests < MILLION:
            requests += play(tracing, qemu, correlator)
        assert tracing.map_entries() == {"processes": 1, "requests": 0, "calls": 0, "held": 0}
        lost = {name: count for name, count in tracing.counted().items() if name.endswith(("_full", "_lost"))}

    correlator.finish()  # what is younger than correlate.HOLD_NS waits for more records of it
    assert correlator.stats.requests == requests
    assert not correlator.held
    assert not lost
    assert resident_bytes() - before_bytes < MOST_GROWTH_BYTES
