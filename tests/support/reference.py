# SPDX-License-Identifier: Apache-2.0
"""
The slow, obvious way: what the correlator must give, one request at a time, and workloads to try it on.

Nothing here shares code with `otel_qemu.trace`: the rules are written down a second time, from their documentation.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from otel_qemu.events import Batch, Link, RbdOperation, Records
from otel_qemu.trace.correlate import Correlator
from otel_qemu.trace.traces import Join, Traces
from tests.support.builders import DEVICE, IMAGE, PID, UNIX_OFFSET_NS, Hit, Submitted

Interval = tuple[int, int]

CONVINCING_VOTES, MOST_VOTES = 3, 8
"""By how many calls an image's disk must lead, and how many are remembered, as `trace.ranges` documents."""

DIRECT = {
    "READ": {RbdOperation.READ},
    "WRITE": {RbdOperation.WRITE, RbdOperation.WRITE_ZEROES, RbdOperation.FLUSH},
    "SYNCHRONIZE_CACHE": {RbdOperation.FLUSH},
    "UNMAP": {RbdOperation.DISCARD},
    "WRITE_SAME": {RbdOperation.WRITE_ZEROES, RbdOperation.WRITE},
}
"""The calls that a request makes by itself on a raw image."""

MAY_CAUSE = {
    "WRITE": set(RbdOperation),
    "WRITE_AND_VERIFY": set(RbdOperation),
    "READ": {RbdOperation.READ},
    "SYNCHRONIZE_CACHE": {RbdOperation.FLUSH, RbdOperation.WRITE},
    "UNMAP": set(RbdOperation),
    "WRITE_SAME": set(RbdOperation),
}
"""The calls that a request may lead to in any disk format."""


# ---- time ------------------------------------------------------------------------------------------------------


def union_ns(intervals: Iterable[Interval]) -> int:
    """Nanoseconds that lie in at least one interval, by marking every one of them."""
    return len({at for begin, end in intervals for at in range(begin, end)})


def split_ns(request: Interval, calls: Sequence[Interval]) -> tuple[int, int, int]:
    """(wait, rbd, completion) of a request: calls are cut to it, and an end of 0 means still open."""
    submit, complete = request
    inside = [
        (min(max(begin, submit), complete), complete if end == 0 else min(max(end, submit), complete))
        for begin, end in calls
    ]
    rbd = union_ns(inside)
    completion = complete - max(end for _, end in inside) if inside else 0
    return complete - submit - rbd - completion, rbd, completion


# ---- joining ---------------------------------------------------------------------------------------------------


def join(requests: Sequence[Submitted], calls: Sequence[Hit]) -> list[tuple[int | None, Join]]:
    """
    The request of each call that could not be walked, and the rule; both lists may hold several processes and disks.

    Calls go by the time of their submits.  By range first: the earliest submitted request that has so many bytes left
    to cover.  Else by time: the only request without a range in flight.
    """
    left = [512 * request.blocks for request in requests]
    votes: dict[tuple[int, int], Counter[int]] = {}
    found: list[tuple[int | None, Join]] = [(None, Join.UNMATCHED)] * len(calls)
    for number in sorted(range(len(calls)), key=lambda i: calls[i].submit_ns):
        call = calls[number]
        disks = votes.setdefault((call.pid, call.image), Counter())
        could = [i for i, request in enumerate(requests) if _could_make(request, call)]
        fits = [
            i for i in could if _has_range(requests[i], call) and _covers(requests[i], call) and left[i] >= call.length
        ]
        devices = {requests[i].device for i in could}
        device = _leader(disks) or (devices.pop() if len(devices) == 1 else None)
        own = [i for i in fits if requests[i].device == device]
        others = [i for i in could if requests[i].device == device and not _has_range(requests[i], call)]
        if own:
            best = min(own, key=lambda i: requests[i].submit_ns)
            left[best] -= call.length
            _vote(disks, requests[best].device)
            found[number] = best, Join.RANGE
            continue
        if fits and device:
            _vote(disks, requests[fits[0]].device)
        if len(others) == 1:
            found[number] = others[0], Join.TIME
    return found


def _leader(disks: Counter[int]) -> int | None:
    """The disk that is ahead of every other by enough."""
    for device, votes in disks.items():
        if (
            all(votes >= disks[other] + CONVINCING_VOTES for other in disks if other != device)
            and votes >= CONVINCING_VOTES
        ):
            return device
    return None


def _vote(disks: Counter[int], device: int) -> None:
    """One for this disk, up to the most; from there on, one against all others."""
    if disks[device] < MOST_VOTES:
        disks[device] += 1
        return
    for other in disks:
        if other != device:
            disks[other] = max(0, disks[other] - 1)


def judge(requests: Sequence[Submitted]) -> dict[tuple[int, int], tuple[int, Join, bool]]:
    """(pid, submit) of each walked call → its request's address, the rule, and whether anything contradicts it."""
    images: dict[tuple[int, int], int] = {}
    found = {}
    pairs = [(call, request) for request in requests for call in request.linked]
    for call, request in sorted(pairs, key=lambda pair: pair[0].submit_ns):
        image = images.setdefault((request.pid, request.device), call.image)
        in_time = request.submit_ns <= call.submit_ns and call.complete_ns <= request.complete_ns
        fits = in_time and image == call.image and call.operation in MAY_CAUSE.get(request.operation, ())
        in_range = _has_range(request, call) and _covers(request, call)
        found[call.pid, call.submit_ns] = request.address, Join.WALK_RANGE if in_range else Join.WALK, not fits
    return found


def _could_make(request: Submitted, call: Hit) -> bool:
    in_time = request.submit_ns <= call.submit_ns and call.complete_ns <= request.complete_ns
    return request.pid == call.pid and in_time and call.operation in DIRECT.get(request.operation, ())


def _has_range(request: Submitted, call: Hit) -> bool:
    return request.operation in ("READ", "WRITE") and call.operation != RbdOperation.FLUSH


def _covers(request: Submitted, call: Hit) -> bool:
    start = 512 * request.lba
    return start <= call.offset and call.offset + call.length <= start + 512 * request.blocks


# ---- feeding and comparing -------------------------------------------------------------------------------------


def batches(records: Records, cuts: Iterable[int]) -> list[Batch]:
    """The stream cut before these records."""
    return [Batch(part, UNIX_OFFSET_NS) for part in np.split(records, sorted(set(cuts)))]


def correlate(
    records: Records, cuts: Iterable[int] = (), correlator: Correlator | None = None
) -> tuple[Correlator, list[Traces]]:
    """A correlator that has been fed everything, and all it gave out."""
    correlator = correlator or Correlator()
    return correlator, [*map(correlator.feed, batches(records, cuts)), correlator.finish()]


def told(found: Iterable[Traces]) -> Counter[Any]:
    """Everything that traces say, whatever the order of requests and of orphans."""
    everything: Counter[Any] = Counter()
    for traces in found:
        for index, request in enumerate(traces.requests):
            everything[_row(request, "first_call"), _rows(traces.calls_of(index))] += 1
        everything.update((None, (_row(call, "parent"),)) for call in traces.orphans)
    return everything


def _rows(calls: Any) -> tuple[Any, ...]:
    return tuple(sorted(_row(call, "parent") for call in calls))


def _row(row: Any, without: str) -> tuple[Any, ...]:
    return tuple(row[name].item() for name in row.dtype.names if name != without)


# ---- workloads -------------------------------------------------------------------------------------------------

OPERATIONS = (*DIRECT, "TEST_UNIT_READY")
DISKS = (
    *((PID, DEVICE, IMAGE, "raw"), (PID, DEVICE + 16, IMAGE + 16, "raw"), (PID + 1, DEVICE, IMAGE, "raw")),
    *((PID, DEVICE + 32, IMAGE, "raw"), (PID + 1, DEVICE + 16, IMAGE + 16, "offset")),
    (PID + 1, DEVICE + 32, IMAGE + 32, "format"),
)
"""
Process, disk, image, and what is in it.  Two disks of the first guest share an image; of the second guest, one image is
used from an ``offset=`` on, and one has a format, whose calls are others, at other places.
"""
SHIFT_BYTES = 1 << 20


@st.composite
def submitted(draw: st.DrawFn, begin_ns: int, lane: int, walk: bool) -> Submitted:
    """A request of a lane: one address at which requests follow one another."""
    pid, device, image, kind = draw(st.sampled_from(DISKS))
    operation, lba = draw(st.sampled_from(OPERATIONS)), 8 * draw(st.integers(0, 1))
    duration = draw(st.integers(0, 60))
    hits = []
    for what, offset, length in draw(pieces(operation, 512 * lba, kind)):
        first, last = sorted((draw(st.integers(0, duration)), draw(st.integers(0, duration))))
        # A walk may meet memory that it cannot read.
        link = draw(st.sampled_from((Link.WALK, Link.WALK, Link.FAULT))) if walk else Link.NO_LAYOUT
        held, lost = draw(st.sampled_from(((True, False), (True, False), (False, False), (True, True))))
        hits.append(
            Hit(what, begin_ns + first, begin_ns + last, offset, length, pid, image, link, 0, held, lost and walk)
        )
    return Submitted(
        *(operation, begin_ns, begin_ns + duration, lba, 8, tuple(hits), pid, device),
        address=0x7F00_0000_0000 + 4096 * lane + 4096 * 4096 * (pid - PID),
        lost=walk and draw(st.sampled_from((False, False, False, True))),
    )


@st.composite
def pieces(draw: st.DrawFn, operation: str, start: int, kind: str) -> list[tuple[RbdOperation, int, int]]:
    """
    (operation, offset, length) of the calls for 4 KiB, in the order of their making.

    None: QEMU answers by itself, or a flush has nothing to do or is served by another's.  Several: split by the block
    layer, one for each descriptor of an UNMAP, a flush behind a write with FUA, or whatever a format needs.
    """
    if operation not in DIRECT:
        return []
    count = draw(st.sampled_from((0, 1, 1, 1, 2, 3)))
    if kind == "format":
        kinds = sorted(MAY_CAUSE[operation])
        return [(draw(st.sampled_from(kinds)), draw(st.integers(0, 1 << 30)), 65536) for _ in range(count)]
    what = draw(st.sampled_from(sorted(DIRECT[operation] - {RbdOperation.FLUSH} or {RbdOperation.FLUSH})))
    shift = SHIFT_BYTES if kind == "offset" else 0
    length = 0 if what == RbdOperation.FLUSH else 4096 // max(count, 1)
    made = [(what, (start + shift + index * length) * bool(length), length) for index in range(count)]
    return made + [(RbdOperation.FLUSH, 0, 0)] * (operation == "WRITE" and draw(st.booleans()))


@st.composite
def workloads(draw: st.DrawFn, walk: bool = True, lanes: int = 4, length: int = 4) -> list[Submitted]:
    """Requests at some addresses, each of them used again and again, all running side by side."""
    found: list[Submitted] = []
    for lane in range(draw(st.integers(1, lanes))):
        now = 1_000_000 + draw(st.integers(0, 40))
        for _ in range(draw(st.integers(1, length))):
            found.append(draw(submitted(now, lane, walk)))
            now = found[-1].complete_ns + draw(st.integers(1, 30))
    return found


def unstarted(address: int, end_ns: int) -> Submitted:
    """A request that was in flight when the probes came, with one call made since."""
    call = Hit(submit_ns=end_ns - 20, complete_ns=end_ns - 10, link=Link.NOT_IN_FLIGHT, request=address)
    return Submitted(complete_ns=end_ns, calls=(call,), address=address, started=False)
