# SPDX-License-Identifier: Apache-2.0
"""``rbd_ns`` is the union of the intervals of a request's calls, however they overlap and nest."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_qemu.events import RbdOperation, RecordKind, Records
from tests.bpf.intervals import Interval, union_ns
from tests.bpf.machine import Completion, Machine


def run(machine: Machine, intervals: Sequence[Interval]) -> Records:
    """Make a request with a call for each interval, in submit order, and a pause after the last."""
    request, calls = machine.submit_request(), dict[int, Completion]()
    moments = sorted({moment for interval in intervals for moment in interval})
    ordered = sorted(intervals)
    for moment in moments:
        machine.now_ns = 2_000_000 + moment
        for number, (_, end) in enumerate(ordered):
            if end == moment and number in calls:
                machine.release(calls.pop(number), 0)
        for number, (start, end) in enumerate(ordered):
            if start == moment:
                calls[number] = machine.call(request, RbdOperation.DISCARD)
                if start == end:
                    machine.release(calls.pop(number), 0)
    machine.now_ns += 17
    machine.complete(request)
    return machine.records()


@pytest.mark.parametrize(
    "intervals",
    [
        [(0, 10)],
        [(0, 10), (10, 20)],
        [(0, 10), (15, 20)],
        [(0, 100), (10, 20), (30, 40)],
        [(0, 10), (5, 15), (12, 30), (40, 41)],
        [(0, 10), (0, 10), (0, 10)],
        [(0, 5), (1, 50), (2, 3), (60, 60)],
    ],
)
def test_typical_calls_are_counted_once_a_nanosecond(machine: Machine, intervals: list[Interval]) -> None:
    """Intervals may be serial, apart, nested, overlapping, equal and empty."""
    assert run(machine, intervals)[0]["rbd_ns"] == union_ns(intervals)


@settings(derandomize=True, database=None, max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 40)), min_size=1, max_size=12))
def test_rbd_ns_is_the_union_of_any_intervals(lengths: list[tuple[int, int]]) -> None:
    """The kernel's single pass in submit order equals the nanoseconds covered, and every call is in the ring."""
    intervals = [(start, start + length) for start, length in lengths]
    machine = Machine()
    records = run(machine, intervals)
    assert records[0]["rbd_ns"] == union_ns(intervals)
    assert records[0]["calls"] == len(intervals) == len(records)
    assert set(records["kind"][1:]) <= {RecordKind.CALL}
    spans = zip(records["call_submit_ns"].tolist(), records["call_complete_ns"].tolist(), strict=True)
    assert sorted((start - 2_000_000, end - 2_000_000) for start, end in spans) == sorted(intervals)
    assert not any(machine.table_sizes().values())
