# SPDX-License-Identifier: Apache-2.0
"""From the trap to the trace: every call has its parent and the rule that found it, or the reason why it has none."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from otel_qemu.trace.correlate import Correlator
from otel_qemu.trace.traces import Join, Traces
from tests.kernel.fake.build import OPAQUE, Variant
from tests.kernel.fake_qemu import FakeQemu
from tests.kernel.tracing import Tracing, join


def joins(traces: Traces) -> dict[Join, int]:
    return {Join(rule): count for rule, count in Counter(traces.calls["join"].tolist()).items()}


def assert_right(traces: Traces) -> None:
    """Check what must hold for every trace: times add up, and offsets are those of the LBAs."""
    requests = traces.requests
    parts = requests["wait_ns"] + requests["rbd_ns"] + requests["completion_ns"]
    assert (parts == requests["complete_ns"] - requests["submit_ns"]).all()
    assert (np.stack([requests[name] for name in ("wait_ns", "rbd_ns", "completion_ns")]) >= 0).all()
    children = traces.calls[traces.calls["parent"] >= 0]
    parents = requests[children["parent"]]
    ranged = np.isin(parents["opcode"], (0x28, 0x2A)) & (children["length"] > 0)
    assert (children["offset"][ranged] == parents["lba"][ranged] * 512).all()
    assert (children["length"][ranged] == parents["bytes"][ranged]).all()


def mixed(qemu: FakeQemu) -> None:
    """Some of everything."""
    for command in ("read 211 4096 32", "write 101 65536 16", "fua 23", "flush 23", "unmap 23 7 4", "zero 5",
                    "inquiry 7", "check-condition 3", "cancel 5", "retry 3", "orphan 23"):  # fmt: skip
        qemu.command(command)


@pytest.mark.parametrize("step", [1, 61, 100_000])
def test_every_call_is_joined_by_the_walk(step: int, variant: Variant, shared_qemu: FakeQemu, tracing: Tracing) -> None:
    """For any cut of the stream, walk and range agree, and a block job's calls are internal."""
    mixed(shared_qemu)
    correlator = Correlator()
    traces = join(correlator, tracing.tracer.read(), step)
    with_range = 211 + 101 + 23 + 3 + 5
    without_range = 23 + 23 + 23 * 7 + 5 + 3 * 2
    assert joins(traces) == {Join.WALK_RANGE: with_range, Join.WALK: without_range, Join.INTERNAL: 23}
    stats = correlator.stats
    assert (stats.requests, stats.calls, stats.joined) == (
        211 + 101 + 23 + 23 + 23 + 5 + 7 + 3 + 5 + 3, with_range + without_range + 23, with_range + without_range
    )  # fmt: skip
    assert (stats.disagreements, stats.range_differs, stats.incomplete) == (0, 0, 0)
    assert_right(traces)


def test_calls_under_their_request(shared_qemu: FakeQemu, tracing: Tracing) -> None:
    """A request has its own calls in order, and its rbd time is the kernel's."""
    shared_qemu.command("unmap 211 7 16")
    records = tracing.tracer.read()
    traces = join(Correlator(), records, 1000)
    assert set(traces.requests["calls"].tolist()) == {7}
    kernel = records.records[records.records["kind"] == 1]
    assert (np.sort(traces.requests["rbd_ns"]) == np.sort(kernel["rbd_ns"])).all()
    for index in range(211):
        offsets = traces.calls_of(index)["offset"]
        assert (np.diff(offsets) == 2 * 65536).all()


def test_what_began_before_us_is_told_apart(variant: Variant) -> None:
    """Requests and calls that were in flight at the start are counted, and calls made for them are marked."""
    with FakeQemu(variant) as qemu:
        qemu.command("hold")
        qemu.command("unmap 23 3")
        with Tracing(qemu) as tracing:
            qemu.command("release-held")
            counted = tracing.counted()
            traces = tracing.traces()
    assert counted == {
        "scsi_unstarted": 23, "rbd_unstarted": 23, "rbd_submitted": 46, "rbd_completed": 46,
        "parent_not_in_flight": 46, "records": 69,
    }  # fmt: skip
    assert joins(traces) == {Join.STARTED_BEFORE: 46}
    assert len(traces.requests) == 0


@pytest.fixture(scope="module")
def opaque() -> Iterator[tuple[FakeQemu, Tracing]]:
    with FakeQemu(OPAQUE) as qemu, Tracing(qemu) as tracing:
        yield qemu, tracing


def test_without_a_layout_calls_are_joined_by_range(opaque: tuple[FakeQemu, Tracing]) -> None:
    """If the layout of librbd is not known, reads and writes find their requests by range, all of them rightly."""
    qemu, tracing = opaque
    (inspection,) = tracing.tracer.inspections
    assert (inspection.layout.scsi_known, inspection.layout.walk_known) == (True, False)
    assert any("joined by range and time" in problem for problem in inspection.problems)
    qemu.command("read 211 4096 16")
    qemu.command("write 211 65536 16")
    assert tracing.counted()["parent_no_layout"] == 422
    traces = tracing.traces()
    assert joins(traces) == {Join.RANGE: 422}
    assert set(traces.requests["calls"].tolist()) == {1}
    assert_right(traces)


def test_without_a_layout_a_lone_flush_is_joined_by_time(opaque: tuple[FakeQemu, Tracing]) -> None:
    """A flush has no range, so a single one is joined by time; a block job's read finds no request."""
    qemu, tracing = opaque
    qemu.command("flush 23 0 1")
    qemu.command("orphan 23")
    traces = tracing.traces()
    assert joins(traces) == {Join.TIME: 23, Join.UNMATCHED: 23}
    assert_right(traces)


def test_without_a_layout_flushes_at_once_are_left_alone(opaque: tuple[FakeQemu, Tracing]) -> None:
    """With several flushes in flight a call is not joined; with one in flight when it ends, it is."""
    qemu, tracing = opaque
    left_alone = 0
    for _ in range(10):  # a fast QEMU ends each before librbd releases the next
        qemu.command("hold")
        qemu.command("flush 23")
        qemu.command("release-held")
        found = joins(tracing.traces())
        assert found.keys() <= {Join.TIME, Join.UNMATCHED}
        assert sum(found.values()) == 23
        assert found[Join.TIME] > 0, "the first was the only one in flight when it was made"
        left_alone += found.get(Join.UNMATCHED, 0)
    assert left_alone
