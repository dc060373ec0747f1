# SPDX-License-Identifier: Apache-2.0
"""
Put librbd calls under the SCSI requests they were made for: batches of records in, whole traces out.

The kernel has joined nearly all of them already; here each join is checked, further calls are attached to their
request, calls that could not be walked are joined by range and time, and every call left alone gets its reason.  The
clock is that of the records: a trace that is not whole after `HOLD_NS` leaves as it is, and is counted.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_qemu.events import NO_RECORDS, Batch, Ending, Link, RecordKind, Records
from otel_qemu.trace import rules
from otel_qemu.trace.arrays.columns import Columns, RowView, TableLike, concatenate_rows, take_rows
from otel_qemu.trace.arrays.groups import mixed
from otel_qemu.trace.build_traces import TraceBuilder
from otel_qemu.trace.decode import call_rows, request_rows
from otel_qemu.trace.images import MOST_DISKS, Images
from otel_qemu.trace.ranges import RangeJoin
from otel_qemu.trace.traces import Join, Traces

HOLD_NS = 2_000_000_000
"""How long a request waits for records of its calls, and a call for its request, in the records' time."""

MOST_HELD_RECORDS = 200_000
"""Records kept back, beside one batch; of more, the older half leaves as it is."""

_SEEN = ("pid", "kind", "link", "submit_ns", "complete_ns", "calls", "call_submit_ns", "call_complete_ns")
"""The fields that are read of every record that comes."""


@dataclass
class Stats:
    """What became of the records fed so far."""

    requests: int = 0
    """SCSI requests given out."""
    calls: int = 0
    """RBD calls given out, each with a parent or a reason."""
    joined: int = 0
    """Of these, with a parent."""
    disagreements: int = 0
    """Joined by the walk, but image, direction or time do not fit."""
    range_differs: int = 0
    """Joined by the walk, but the byte range is another: normal for formats above rbd, such as qcow2."""
    incomplete: int = 0
    """Requests given out without all of their calls."""
    unstarted: int = 0
    """Records of requests that began before us: they only say so of their calls."""
    late_ends: int = 0
    """Records that were the end of a first call which outlived its request: both are one call."""
    by_join: tuple[int, ...] = (0,) * (max(Join) + 1)
    """The calls given out, by the rule that joined them or the reason why none did: the index is a `Join`."""


class Correlator:
    """
    The joining stage; feed it batches in the order of the ring.

    Args:
        most_held: records kept back, beside one batch; of more, the older half leaves as it is.
        most_disks: whose images are remembered (`Images`).
    """

    def __init__(self, most_held: int = MOST_HELD_RECORDS, most_disks: int = MOST_DISKS) -> None:
        self.stats = Stats()
        self._most_held = most_held
        self._held: Records = NO_RECORDS
        self._ranges = RangeJoin()
        self._unwalked: dict[int, int] = {}
        """When the last call ended that could not be walked, of each process that has such."""
        self._images = Images(most_disks)
        self._newest_ns = 0
        self._unix_offset_ns = 0

    @property
    def held(self) -> int:
        """Records kept back: requests that wait for calls, and calls that wait for their request."""
        return len(self._held)

    def feed(self, batch: Batch) -> Traces:
        """The traces that became whole with this batch."""
        self._unix_offset_ns = batch.unix_offset_ns
        seen = Columns.select(batch.records, *_SEEN)
        newest = max(int(seen[name].max(initial=0)) for name in ("complete_ns", "call_complete_ns"))
        self._newest_ns = max(self._newest_ns, newest, batch.read_ns)  # an idle guest's last traces leave as well
        self._learn_unwalked(seen)
        self.stats.unstarted += int(np.count_nonzero((seen["kind"] == RecordKind.REQUEST) & (seen["submit_ns"] == 0)))
        whole = self._is_whole(seen)
        return self._join(take_rows(batch.records, whole), take_rows(batch.records, ~whole), self._given_up_ns())

    def finish(self) -> Traces:
        """Everything still held, as it is: there will be no more records."""
        return self._join(NO_RECORDS, NO_RECORDS, self._newest_ns + 1)

    def _given_up_ns(self) -> int:
        """The time before which an end is too old to wait: by age, and of too many records, that of the older half."""
        given_up_ns = self._newest_ns - HOLD_NS
        if len(self._held) > self._most_held:
            ends = np.maximum(self._held["complete_ns"], self._held["call_complete_ns"])
            given_up_ns = max(given_up_ns, int(np.median(ends)) + 1)
        return given_up_ns

    def _join(self, whole: Records, fresh: Records, given_up_ns: int) -> Traces:
        """Give out requests that are whole, and what becomes whole with other records."""
        requests, unstarted, named, alone = _sorted(concatenate_rows(self._held, fresh))
        found, unmatched, alone = self._join_by_range(requests, named, alone, given_up_ns)
        further = concatenate_rows(named, found)

        parent = find_parents(requests, further)
        late = _take_late_ends(requests, further, parent)
        self.stats.late_ends += int(late.sum())
        if late.any():
            further, parent = take_rows(further, ~late), parent[~late]
        ready = _is_ready(requests, parent, given_up_ns) & ~self._may_be_claimed(requests, given_up_ns)
        has = parent >= 0
        has[has] = ready[parent[has]]
        given_up = (parent < 0) & (further["call_complete_ns"] < given_up_ns)

        out = TraceBuilder(take_rows(requests, ready), whole)
        rule = np.where(_is_unwalked(further), Join.RANGE, Join.WALK).astype("u1")
        out.add(take_rows(further, has), (np.cumsum(ready) - 1)[parent[has]], rule[has])
        out.leave(take_rows(further, given_up), Join.PARENT_LOST)
        out.leave(unmatched, Join.UNMATCHED)
        rest = self._leave_alone(out, alone, unstarted, given_up_ns)
        young = take_rows(unstarted, unstarted["complete_ns"] >= given_up_ns)
        waits = ~has & ~given_up
        self._held = concatenate_rows(take_rows(requests, ~ready), take_rows(further, waits), rest, young)
        return self._finished(out)

    def _join_by_range(
        self, requests: Records, named: Records, alone: Records, given_up_ns: int
    ) -> tuple[Records, Records, Records]:
        """
        Find a parent for calls that could not be walked, once all requests that may fit have ended.

        Returns:
            Those that name their request now as walked ones do, those that nothing fits, and the others.
        """
        due = _is_unwalked(alone) & (alone["call_complete_ns"] < given_up_ns)
        if not due.any():
            return NO_RECORDS, NO_RECORDS, alone
        rows, calls = request_rows(requests), take_rows(alone, due)
        covered = _covered_bytes(requests, take_rows(named, _is_unwalked(named)))
        parent = self._ranges.match(rows, call_rows(calls), covered, HOLD_NS)
        fits = parent >= 0
        for name in ("request", "submit_ns"):
            calls[name][fits] = requests[name][parent[fits]]
        return take_rows(calls, fits), take_rows(calls, ~fits), take_rows(alone, ~due)

    def _is_whole(self, records: Columns) -> NDArray[np.bool_]:
        """
        Requests that need nothing else, nearly all: their only call lies in the record, or they made none.

        One that hangs (in a recording) leaves as it was reported then: its calls belong to its end, which follows.
        """
        has_call, ended = records["call_submit_ns"] > 0, records["call_complete_ns"] > 0
        whole = (records["kind"] == RecordKind.REQUEST) & (records["submit_ns"] > 0)
        whole &= (records["calls"] == has_call) & (has_call == ended)
        if self._unwalked:
            whole &= ~np.isin(records["pid"], list(self._unwalked))
        return whole | (records["kind"] == RecordKind.REQUEST) & (records["ending"] == Ending.HUNG)

    def _learn_unwalked(self, fresh: Columns) -> None:
        """Processes whose requests wait for calls without a walk; one that makes none any more is forgotten."""
        calls = RowView(fresh, np.flatnonzero(_is_unwalked(fresh)))
        for pid in np.unique(calls["pid"]).tolist():
            end_ns = int(calls["call_complete_ns"][calls["pid"] == pid].max())
            self._unwalked[pid] = max(end_ns, self._unwalked.get(pid, 0))
        over_ns = self._newest_ns - 2 * HOLD_NS
        self._unwalked = {pid: end_ns for pid, end_ns in self._unwalked.items() if end_ns >= over_ns}

    def _may_be_claimed(self, requests: Records, given_up_ns: int) -> NDArray[np.bool_]:
        """Requests whose process has calls that cannot be walked: one may still turn out to be theirs."""
        return np.isin(requests["pid"], list(self._unwalked)) & (requests["complete_ns"] >= given_up_ns)

    def _leave_alone(self, out: TraceBuilder, alone: Records, unstarted: Records, given_up_ns: int) -> Records:
        """Give calls without a parent their reason; return those that may still get another."""
        walked = alone["link"] == Link.NOT_IN_FLIGHT
        before = walked & _named_in(alone, unstarted)
        old = (alone["call_complete_ns"] < given_up_ns) & ~before
        out.leave(take_rows(alone, before), Join.STARTED_BEFORE)
        out.leave(take_rows(alone, old & walked), Join.INTERNAL)
        out.leave(take_rows(alone, old & ~walked), Join.UNMATCHED)  # a link that we do not know: a spoilt recording
        return take_rows(alone, ~before & ~old)

    def _finished(self, out: TraceBuilder) -> Traces:
        requests, calls = out.tables()
        traces = Traces(requests, calls, self._unix_offset_ns)
        self._check(traces)
        self.stats.requests += len(requests)
        self.stats.calls += len(calls)
        self.stats.joined += traces.joined
        by_join = np.bincount(calls["join"], minlength=len(self.stats.by_join)).tolist()
        self.stats.by_join = tuple(before + now for before, now in zip(self.stats.by_join, by_join, strict=True))
        self.stats.incomplete += int(np.count_nonzero(requests["incomplete"]))
        return traces

    def _check(self, traces: Traces) -> None:
        """Hold each join by the walk against image, direction, time and range; of the others, say which had a range."""
        children = traces.by_call.between(0, traces.joined)
        parents = RowView(traces.by_request, children["parent"])
        walked = children["join"] == Join.WALK
        fits = rules.direction_fits(parents, children) & rules.time_fits(parents, children)
        fits &= self._fits_image(traces, children)
        has_range = rules.has_range(parents, children)
        children["join"][~walked & ~has_range] = Join.TIME
        ranged = walked & has_range
        in_range = ranged & rules.range_fits(parents, children)
        differ = walked & ~fits
        children["join"][in_range] = Join.WALK_RANGE
        children["disagrees"] = differ
        self.stats.disagreements += int(np.count_nonzero(differ))
        self.stats.range_differs += int(np.count_nonzero(ranged) - np.count_nonzero(in_range))

    def _fits_image(self, traces: Traces, children: Columns) -> NDArray[np.bool_]:
        pids, devices = (traces.by_request[name][traces.disks.firsts].tolist() for name in ("pid", "device"))
        disks = list(zip(pids, devices, strict=True))
        return self._images.fit(disks, traces.disks.codes.take(children["parent"]), children)

    @property
    def images(self) -> dict[tuple[int, int], int]:
        """The image handle of each (pid, SCSIDevice *), learnt from joined calls."""
        return self._images.known()


def traces_of_requests(records: Records, unix_offset_ns: int) -> Traces:
    """Request records by themselves, each with the call it holds; for those that came another way than the ring."""
    requests, calls = TraceBuilder(records).tables()
    return Traces(requests, calls, unix_offset_ns)


def find_parents(requests: Records, further: Records) -> NDArray[np.int64]:
    """Index of the request that each further call names by (pid, request, submit_ns), or -1; int64, shape (n,)."""
    if not len(requests) or not len(further):
        return np.full(len(further), -1, dtype="i8")
    of = Columns.select(further, *_NAMING)
    keys, named = (mixed(*(table[name] for name in _NAMING)) for table in (requests, of))
    runs = np.flatnonzero(np.concatenate(([True], named[1:] != named[:-1])))  # those of one request come together
    order = np.argsort(keys, kind="stable")
    at = np.minimum(np.searchsorted(keys[order], named[runs]), len(keys) - 1)
    found = np.repeat(order[at], np.diff(runs, append=len(named)))
    same = np.ones(len(further), dtype=bool)
    for name in _NAMING:
        same &= requests[name][found] == of[name]
    return np.where(same, found, -1).astype("i8")


_NAMING = ("pid", "request", "submit_ns")


def _is_ready(requests: Records, parent: NDArray[np.int64], given_up_ns: int) -> NDArray[np.bool_]:
    """Requests that have all their calls, or have waited long enough for them."""
    have = np.bincount(parent[parent >= 0], minlength=len(requests)) + (requests["call_submit_ns"] > 0)
    is_open = (requests["call_submit_ns"] > 0) & (requests["call_complete_ns"] == 0)
    return (have >= requests["calls"]) & ~is_open | (requests["complete_ns"] < given_up_ns)


def _take_late_ends(requests: Records, further: Records, parent: NDArray[np.int64]) -> NDArray[np.bool_]:
    """
    A first call that outlives its request is in its record without an end, and then comes by itself: one call, not two.

    Returns:
        Which of `further` were such ends; they are in `requests` now.
    """
    late = parent >= 0
    rows = parent[late]
    same = (requests["call_submit_ns"][rows] == further["call_submit_ns"][late]) & (
        requests["image"][rows] == further["image"][late]
    )
    late[late] = same & (requests["call_complete_ns"][rows] == 0)
    for name in ("call_complete_ns", "return_value"):
        requests[name][parent[late]] = further[name][late]
    return late


def _sorted(records: Records) -> tuple[Records, Records, Records, Records]:
    """Requests, those that began before us, calls that name their request (by address and submit), and the others."""
    seen = Columns.select(records, "kind", "link", "submit_ns")
    started = seen["submit_ns"] > 0
    is_request = seen["kind"] == RecordKind.REQUEST
    named = ~is_request & ((seen["link"] == Link.WALK) | _is_unwalked(seen) & started)
    which = (is_request & started, is_request & ~started, named, ~is_request & ~named)
    requests, unstarted, further, alone = (take_rows(records, rows) for rows in which)
    return requests, unstarted, further, alone


def _is_unwalked(calls: TableLike) -> Any:
    return (calls["link"] == Link.NO_LAYOUT) | (calls["link"] == Link.FAULT)


def _covered_bytes(requests: Records, found: Records) -> NDArray[np.uint64]:
    """How many bytes of each request calls have claimed so far; uint64, shape (n,)."""
    covered = np.zeros(len(requests), dtype="u8")
    parent = find_parents(requests, found)
    np.add.at(covered, parent[parent >= 0], found["length"][parent >= 0])
    return covered


def _named_in(calls: Records, unstarted: Records) -> NDArray[np.bool_]:
    """Calls whose walk ended at a request that is known to have begun before us, and ended soon after them."""
    if not len(unstarted):
        return np.zeros(len(calls), dtype=bool)
    ends = {(int(r["pid"]), int(r["request"])): int(r["complete_ns"]) for r in unstarted}
    names = ("pid", "request", "call_submit_ns", "call_complete_ns")
    rows = zip(*(calls[name].tolist() for name in names), strict=True)
    return np.array([b <= ends.get((p, r), -1) <= e + HOLD_NS for p, r, b, e in rows], dtype=bool)
