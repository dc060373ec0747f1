# SPDX-License-Identifier: Apache-2.0
"""Calls without a walk to a request: joined by range and time as a slow reference does, or left alone with a reason."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from otel_qemu.events import Batch, Link, RbdOperation, RecordKind, Records
from otel_qemu.trace.correlate import HOLD_NS, Correlator
from otel_qemu.trace.decode import call_rows, request_rows
from otel_qemu.trace.ranges import MOST_VOTES, RangeJoin
from otel_qemu.trace.traces import Join, Traces
from tests.support import reference
from tests.support.builders import DEVICE, IMAGE, PID, Hit, Submitted, distinct_times, ring

quick = settings(deadline=None, max_examples=100, derandomize=True, database=None)
NO_WALK = Link.NO_LAYOUT
FIRST, SECOND = 0x7F00_0000_0000, 0x7F00_0000_1000


def write(begin: int, end: int, address: int = FIRST, **fields: int) -> Submitted:
    return Submitted("WRITE", begin, end, address=address, **fields)  # type: ignore[arg-type]


def written(begin: int, end: int, **fields: int) -> Hit:
    return Hit(RbdOperation.WRITE, begin, end, link=NO_WALK, **fields)  # type: ignore[arg-type]


def with_calls(request: Submitted, *calls: Hit) -> Submitted:
    return replace(request, calls=calls)


def parents(found: list[Traces]) -> dict[tuple[int, int], tuple[int, Join]]:
    """(pid, submit of the call) → (address of its request or 0, rule)."""
    rows = {}
    for traces in found:
        for call in traces.calls:
            request = int(traces.requests[call["parent"]]["request"]) if call["parent"] >= 0 else 0
            rows[int(call["pid"]), int(call["submit_ns"])] = request, Join(call["join"])
    return rows


class TestRules:
    """All requests at hand: who is believed, and who is not."""

    @quick
    @given(reference.workloads(walk=False))
    def test_agrees_with_the_slow_way(self, requests: list[Submitted]) -> None:
        """All requests at hand: each call has the parent and the rule that the reference gives it."""
        requests = distinct_times(requests)
        calls = [call for request in requests for call in request.calls]
        expected = {
            (call.pid, call.submit_ns): (requests[found].address if found is not None else 0, rule)
            for call, (found, rule) in zip(calls, reference.join(requests, calls), strict=True)
        }
        assert parents(reference.correlate(ring(requests))[1]) == expected

    def test_the_earliest_of_identical_requests_wins(self) -> None:
        """Two identical writes run side by side: first come, first served, and each has one call."""
        records = ring([with_calls(write(1, 100), written(10, 20)), with_calls(write(2, 90, SECOND), written(12, 22))])
        _, found = reference.correlate(records)
        assert parents(found) == {(PID, 10): (FIRST, Join.RANGE), (PID, 12): (SECOND, Join.RANGE)}

    @pytest.mark.parametrize(
        "call",
        [
            written(0, 20),
            written(10, 101),
            written(10, 20, offset=512),
            written(10, 20, length=8192),
            written(10, 20, pid=PID + 1),
            replace(written(10, 20), operation=RbdOperation.READ),
            replace(written(10, 20), operation=RbdOperation.DISCARD),
        ],
        ids=["begins before", "ends after", "other range", "too long", "other process", "reads", "discards"],
    )
    def test_what_contradicts_is_not_joined(self, call: Hit) -> None:
        """A call outside of a request by time, range, process or direction is left alone, and says so."""
        _, found = reference.correlate(ring([with_calls(write(1, 100), call)]))
        assert [Join(row["join"]) for traces in found for row in traces.calls] == [Join.UNMATCHED]

    def test_a_flush_goes_to_the_only_one_it_can(self) -> None:
        """A flush has no range: one SYNCHRONIZE CACHE in flight is its parent, of two neither is."""
        sync = Submitted("SYNCHRONIZE_CACHE", 1, 100, address=FIRST)
        flush = Hit(RbdOperation.FLUSH, 10, 20, 0, 0, link=NO_WALK)
        alone = reference.correlate(ring([with_calls(sync, flush)]))[1]
        two = reference.correlate(ring([with_calls(sync, flush), replace(sync, address=SECOND)]))[1]
        assert parents(alone) == {(PID, 10): (FIRST, Join.TIME)}
        assert parents(two) == {(PID, 10): (0, Join.UNMATCHED)}

    def test_an_image_stays_with_its_disk(self) -> None:
        """Once an image was joined to a disk by range often enough, its calls go to that disk's requests alone."""
        here = [with_calls(write(at, at + 5), written(at + 1, at + 2)) for at in (10, 20, 30)]
        both = [
            with_calls(write(201, 300), written(210, 220)),
            with_calls(write(200, 299, SECOND, device=DEVICE + 16), written(211, 221, image=IMAGE + 16)),
        ]
        _, found = reference.correlate(ring([*here, *both]))
        assert parents(found)[PID, 210] == (FIRST, Join.RANGE)

    def test_only_the_walk_is_held_against_the_rules(self) -> None:
        """What was joined by range cannot disagree with a walk that there was not, on whatever image."""
        request = replace(write(1, 100), blocks=16)
        both = written(10, 20), written(11, 21, offset=4096, image=9)
        correlator, found = reference.correlate(ring([with_calls(request, *both)]))
        assert {rule for _, rule in parents(found).values()} == {Join.RANGE}
        assert correlator.stats.disagreements == 0


TWO_DISKS = [
    # The partition tables of two disks, read side by side: nothing tells the images apart yet.
    with_calls(write(1, 30), written(11, 20)),
    with_calls(write(2, 40, SECOND, device=DEVICE + 16), written(10, 25, image=IMAGE + 16)),
]
TWO_FLUSHES = [
    with_calls(Submitted("SYNCHRONIZE_CACHE", 1, 30, address=FIRST)),
    with_calls(
        Submitted("SYNCHRONIZE_CACHE", 2, 40, address=SECOND), Hit(RbdOperation.FLUSH, 10, 20, 0, 0, link=NO_WALK)
    ),
]
IDENTICAL = [with_calls(write(2, 30, SECOND), written(12, 20)), with_calls(write(1, 40), written(10, 22))]
A_LONG_ONE = [
    with_calls(write(1, 2 * HOLD_NS), written(10, 20)),
    # Anything that moves the clock: another request's end.
    write(2, 21 + HOLD_NS, SECOND, lba=800),
]


class TestCuts:
    """Requests that come in later batches than their calls."""

    @pytest.mark.parametrize(
        "requests",
        [TWO_DISKS, TWO_FLUSHES, IDENTICAL, A_LONG_ONE],
        ids=["two disks", "two flushes", "identical ranges", "longer than the hold"],
    )
    def test_any_cut_gives_the_same(self, requests: list[Submitted]) -> None:
        """Batches of one record give the traces that one batch of all gives."""
        records = ring(requests)
        whole, parts = reference.correlate(records)[1], reference.correlate(records, range(len(records)))[1]
        assert parents(parts) == parents(whole)

    def test_one_wrong_vote_does_not_decide_for_ever(self) -> None:
        """Two disks whose images were mistaken for each other once are distinguished by all that follows."""
        after = [
            with_calls(write(now, now + 9, lba=8 * now), written(now + 1, now + 8, offset=4096 * now))
            for now in range(100, 1000, 10)
        ]
        records = ring([*TWO_DISKS, *after])
        _, found = reference.correlate(records, range(len(records)))
        assert parents(found)[PID, 991] == (FIRST, Join.RANGE)


class TestHotPlug:
    """Disks come, go, and take each other's addresses."""

    def test_an_image_that_moves_to_another_disk_is_followed(self) -> None:
        """Its address was a disk's for long, then it is another's: after some lone calls, the new one's."""

        def writes(device: int, times: range) -> list[Submitted]:
            return [
                with_calls(write(at, at + 9, FIRST + at, lba=8 * at, device=device),
                           written(at + 1, at + 8, offset=4096 * at))
                for at in times
            ]  # fmt: skip

        moved = [*writes(DEVICE, range(100, 600, 10)), *writes(DEVICE + 16, range(1000, 1300, 10))]
        found = parents(reference.correlate(ring(moved))[1])
        after = [found[PID, at + 1][1] for at in range(1000, 1300, 10)]
        assert {found[PID, at + 1][1] for at in range(100, 600, 10)} == {Join.RANGE}
        assert after == [Join.UNMATCHED] * after.count(Join.UNMATCHED) + [Join.RANGE] * after.count(Join.RANGE)
        assert 0 < after.count(Join.UNMATCHED) <= MOST_VOTES

    def test_a_process_whose_calls_can_be_walked_again_does_not_wait(self) -> None:
        """Its pid was another's, or one walk had failed: what comes later is given out at once."""
        late = 10 * HOLD_NS
        correlator = Correlator()
        correlator.feed(Batch(ring([with_calls(write(1, 100), written(10, 20))]), 0))
        assert correlator.held == 2
        found = correlator.feed(Batch(ring([write(late, late + 50, SECOND)]), 0))
        assert found.requests["submit_ns"].tolist() == [1, late]


class TestReasons:
    """Calls without a request."""

    def test_a_call_of_another_process_finds_no_parent(self) -> None:
        """Same address, same time, another process: the request is lost, and not somebody else's."""
        request = Submitted("WRITE", 5, 50, calls=(Hit(submit_ns=10, complete_ns=20, pid=PID + 1, held=False),) * 2)
        assert reasons(ring([replace(request, lost=True), replace(request, calls=())])) == [Join.PARENT_LOST]

    def test_an_address_used_again_is_another_request(self) -> None:
        """A call names its request by address and submit: a later request at the address does not get it."""
        late = Submitted("WRITE", 5, 50, calls=(Hit(submit_ns=10, complete_ns=20), Hit(submit_ns=11, complete_ns=60)))
        again = Submitted("WRITE", 55, 70)
        assert reasons(ring([replace(late, lost=True), again])) == [Join.PARENT_LOST]

    def test_who_had_no_request_says_why(self) -> None:
        """QEMU's own call, and one of a request that began before us."""
        own = Hit(submit_ns=10, complete_ns=20, link=Link.NOT_IN_FLIGHT, request=FIRST)
        assert reasons(ring([], [own])) == [Join.INTERNAL]
        assert reasons(ring([reference.unstarted(FIRST, 100)])) == [Join.STARTED_BEFORE]

    def test_an_unstarted_request_made_no_calls_after_its_end(self) -> None:
        """The address of a request that began before us ends QEMU's own walk much later: that call is QEMU's own."""
        own = Hit(submit_ns=900, complete_ns=950, link=Link.NOT_IN_FLIGHT, request=FIRST)
        assert reasons(ring([reference.unstarted(FIRST, 100)], [own])) == [Join.STARTED_BEFORE, Join.INTERNAL]

    def test_a_first_call_that_outlives_its_request_is_told_once(self) -> None:
        """Its half lies open in the request's record and its end comes in one of its own: one call, any cut."""
        records = ring([Submitted("WRITE", 5, 50, calls=(Hit(submit_ns=10, complete_ns=60),))])
        told = [len(reasons(records, cuts)) for cuts in ((), (1,))]
        assert told == [1, 1]

    def test_a_request_that_ends_before_it_begins_has_no_calls(self) -> None:
        """Two CPUs' clocks, or whoever made a recording, may say so."""
        calls = [written(begin, begin + 3) for begin in (60, 76, 90)]
        records = ring([with_calls(write(50, 100), *calls), write(80, 74, SECOND)])
        assert sorted(reasons(records)) == [Join.RANGE, Join.UNMATCHED, Join.UNMATCHED]

    def test_images_are_not_remembered_for_ever(self) -> None:
        """Of very many, those that were met last."""
        joins = RangeJoin(most_images=4)
        for image in range(30):
            records = ring([with_calls(write(50, 100), written(75, 78, image=image))])
            requests, calls = (records[records["kind"] == kind] for kind in (RecordKind.REQUEST, RecordKind.CALL))
            joins.match(request_rows(requests), call_rows(calls), np.zeros(1, "u8"), HOLD_NS)
        assert 4 <= joins.images <= 8

    def test_an_unstarted_request_is_not_waited_for_for_ever(self) -> None:
        """A call of a request that began before us and runs for longer than `HOLD_NS` is internal, in any cut."""
        early = Hit(submit_ns=10, complete_ns=20, held=False, request=FIRST, link=Link.NOT_IN_FLIGHT)
        slow = Submitted("UNMAP", 5, 3 * HOLD_NS, calls=(early, replace(early, submit_ns=15)), started=False)
        records = ring([slow, write(3, 2 * HOLD_NS, SECOND, lba=800)])
        assert reasons(records, range(len(records))) == reasons(records)


def reasons(records: Records, cuts: Iterable[int] = ()) -> list[Join]:
    """The rule or reason of every call."""
    _, found = reference.correlate(records, cuts)
    return [Join(call["join"]) for traces in found for call in traces.calls]
