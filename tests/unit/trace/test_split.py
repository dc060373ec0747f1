# SPDX-License-Identifier: Apache-2.0
"""Where the time went: the parts are the duration, and rbd is the union of the calls, to the nanosecond."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_qemu.trace.split import split_time
from otel_qemu.trace.traces import CALL, REQUEST, Table
from tests.support import reference
from tests.support.builders import table

Interval = tuple[int, int]
Parts = tuple[int, int, int]

INTERVALS = st.tuples(st.integers(0, 90), st.integers(0, 60)).map(lambda pair: (pair[0], sum(pair)))
# Out of bounds on both sides of a request, and open (0) where the end was not seen.
CHILDREN = st.lists(INTERVALS | st.tuples(st.integers(0, 90), st.just(0)), max_size=6).map(sorted)


def split(requests: list[tuple[Interval, list[Interval]]], kernel_ns: int = 0, lost: int = 0) -> Table:
    """Rows of these requests, with their calls in submit order, after the split."""
    rows = [
        {"submit_ns": own[0], "complete_ns": own[1], "calls": len(calls), "incomplete": lost} for own, calls in requests
    ]
    calls = [
        {"parent": index, "submit_ns": begin, "complete_ns": end}
        for index, (_, own) in enumerate(requests)
        for begin, end in own
    ]
    orphan = {"parent": -1, "submit_ns": 1, "complete_ns": 2**40}
    found: Table = table(REQUEST, rows)
    split_time(found, table(CALL, [*calls, orphan]), np.full(len(rows), kernel_ns, "u8"))
    return found


def parts(rows: Table) -> list[Parts]:
    found: list[Parts] = rows[["wait_ns", "rbd_ns", "completion_ns"]].tolist()
    return found


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ([(1018, 1389)], (18, 371, 23)),
        ([], (412, 0, 0)),
        ([(1000, 1412)], (0, 412, 0)),
        ([(1010, 1050), (1030, 1090)], (10, 80, 322)),
        ([(1010, 1090), (1030, 1050)], (10, 80, 322)),
        ([(1010, 1050), (1100, 1150)], (60, 90, 262)),
        ([(1010, 1050), (1050, 1150)], (10, 140, 262)),
        ([(1010, 0)], (10, 402, 0)),
        ([(900, 1050)], (0, 50, 362)),
        ([(1400, 1500)], (400, 12, 0)),
        ([(900, 2000)], (0, 412, 0)),
        ([(1010, 1010)], (10, 0, 402)),
    ],
    ids=[
        *("the write everybody knows", "no call", "all of it", "overlapping", "inside another", "apart", "touching"),
        *("still open", "begun before", "ended after", "around it", "no time at all"),
    ],
)
def test_the_parts(calls: list[Interval], expected: Parts) -> None:
    """What comes before and between calls is wait, what follows the last is completion."""
    assert parts(split([((1000, 1412), calls)])) == [expected]


@settings(deadline=None, max_examples=200, derandomize=True, database=None)
@given(st.lists(st.tuples(INTERVALS, CHILDREN), max_size=6))
def test_agrees_with_the_slow_way(requests: list[tuple[Interval, list[Interval]]]) -> None:
    """Any children of any requests: the same as marking every nanosecond."""
    found = split(requests)
    assert parts(found) == [reference.split_ns(own, calls) for own, calls in requests]
    assert [sum(row) for row in parts(found)] == [end - begin for (begin, end), _ in requests]


@settings(deadline=None, max_examples=100, derandomize=True, database=None)
@given(st.lists(st.tuples(INTERVALS, CHILDREN), max_size=4), st.integers(0, 200))
def test_lost_calls_leave_no_part_negative(requests: list[tuple[Interval, list[Interval]]], kernel_ns: int) -> None:
    """Where records of calls were lost, the kernel's union counts, and the identity holds all the same."""
    rows = split(requests, kernel_ns, lost=1)
    for (own, calls), row in zip(requests, parts(rows), strict=True):
        duration = own[1] - own[0]
        assert sum(row) == duration
        assert min(row) >= 0
        assert row[1] == min(max(reference.split_ns(own, calls)[1], kernel_ns), duration)


def test_months_of_uptime_cost_no_nanosecond() -> None:
    """Times beyond 2^53 ns stay integers."""
    base = 2**60 + 1
    requests = [((base, base + 412), [(base + 18, base + 389)])] * 3
    assert parts(split(requests)) == [(18, 371, 23)] * 3


def test_no_requests_have_no_parts() -> None:
    """An empty batch is a batch, though orphans be in it."""
    assert parts(split([])) == []
