# SPDX-License-Identifier: Apache-2.0
"""Correlating: nothing is lost or reported twice, however the stream is cut and whatever the CPUs' order."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_qemu.events import MOST_AT_ONCE, RECORD, Batch, Link, RbdOperation, RecordKind, Records
from otel_qemu.trace.correlate import HOLD_NS, Correlator
from otel_qemu.trace.images import SILENT_NS
from otel_qemu.trace.pipeline import Pipeline
from otel_qemu.trace.traces import Join, Traces
from tests.support import reference
from tests.support.builders import PID, UNIX_OFFSET_NS, Hit, Submitted, distinct_times, ring

ADDRESS = 0x7F00_0000_0000
HELD_NOT = Hit(RbdOperation.DISCARD, 10, 20, held=False)
quick = settings(deadline=None, max_examples=60, derandomize=True, database=None)

INTERNAL = st.lists(
    st.builds(
        lambda begin, span, request: Hit(
            RbdOperation.READ, 1_000_000 + begin, 1_000_000 + begin + span, link=Link.NOT_IN_FLIGHT, request=request
        ),
        *(st.integers(0, 200), st.integers(0, 50), st.sampled_from((0, ADDRESS, 0x1234))),
    ),
    max_size=2,
)
CUTS = st.lists(st.integers(0, 60), max_size=60)
BEFORE_US = st.lists(
    st.builds(reference.unstarted, st.sampled_from((ADDRESS - 1, ADDRESS - 2)), st.just(1_000_100)), max_size=2
)


def halves(records: Records) -> Counter[Any]:
    """Every RBD half that went in."""
    rows = records[records["call_submit_ns"] > 0]
    return Counter(rows[["pid", "image", "operation", "call_submit_ns", "call_complete_ns", "offset"]].tolist())


def calls(found: list[Traces]) -> Counter[Any]:
    """Every call that came out."""
    names = ["pid", "image", "operation", "submit_ns", "complete_ns", "offset"]
    return Counter(row for traces in found for row in traces.calls[names].tolist())


def identities(table: Any) -> list[Any]:
    rows: list[Any] = table[["pid", "request", "submit_ns"]].tolist()
    return rows


def check_conserved(records: Records, correlator: Correlator, found: list[Traces]) -> None:
    """Requests and calls went in and came out, and the stage's own counts say so."""
    started = records[(records["kind"] == RecordKind.REQUEST) & (records["submit_ns"] > 0)]
    given_out = [identity for traces in found for identity in identities(traces.requests)]
    assert Counter(given_out) == Counter(identities(started))
    assert calls(found) == halves(records)
    assert correlator.held == 0
    assert correlator.stats.requests == len(started)
    assert correlator.stats.calls == halves(records).total()
    assert correlator.stats.joined == sum(int((traces.calls["parent"] >= 0).sum()) for traces in found)
    joins = Counter(join for traces in found for join in traces.calls["join"].tolist())
    assert correlator.stats.by_join == tuple(joins[join] for join in range(max(Join) + 1))
    # Each record is one of these, and only one: a request, with or without a call in it; a call; a late end; a proof.
    inside = int(((records["kind"] == RecordKind.REQUEST) & (records["call_submit_ns"] > 0)).sum())
    stats = correlator.stats
    assert len(records) == stats.requests + (stats.calls - inside) + stats.late_ends + stats.unstarted


def check_well_formed(traces: Traces) -> None:
    """The two tables fit together as `traces` says."""
    joined = traces.calls["parent"] >= 0
    assert np.array_equal(joined, np.sort(joined)[::-1]), "calls without parent come last"
    for index, request in enumerate(traces.requests):
        own = traces.calls_of(index)
        assert (own["parent"] == index).all()
        assert (own["pid"] == request["pid"]).all(), "a call under another process's request"
        assert (np.diff(own["submit_ns"].astype("i8")) >= 0).all()
    assert int(traces.requests["calls"].sum()) == int(joined.sum())
    assert all((call["join"] < Join.INTERNAL) == (call["parent"] >= 0) for call in traces.calls)


def check_times(traces: Traces) -> None:
    """The three parts are the duration, and none is negative."""
    rows = traces.requests
    parts = [rows[name] for name in ("wait_ns", "rbd_ns", "completion_ns")]
    assert all((part >= 0).all() for part in parts)
    assert (sum(parts) == (rows["complete_ns"] - rows["submit_ns"]).astype("i8")).all()


class TestProperties:
    """What holds for every workload, every loss and every cut."""

    @quick
    @given(reference.workloads(), reference.workloads(walk=False), INTERNAL, BEFORE_US, CUTS)
    def test_conserves_everything(
        self, walked: list[Submitted], unwalked: list[Submitted], own: list[Hit], before: list[Submitted],
        cuts: list[int],
    ) -> None:  # fmt: skip
        """Every request and every call is in exactly one place, whatever was lost on the way."""
        other = [replace(request, address=request.address + 8) for request in unwalked]
        records = ring([*walked, *other, *before], own)
        correlator, found = reference.correlate(records, cuts)
        check_conserved(records, correlator, found)
        for traces in found:
            check_well_formed(traces)
            check_times(traces)

    @quick
    @given(reference.workloads(), INTERNAL, BEFORE_US, CUTS)
    def test_any_cut_gives_the_same(
        self, requests: list[Submitted], own: list[Hit], before: list[Submitted], cuts: list[int]
    ) -> None:
        """Where the walk is known: one batch, batches of one record, and any other cut tell the same traces."""
        records = ring([walked_only(request) for request in requests] + before, own)
        whole, found = reference.correlate(records)
        for some in (range(len(records)), cuts):
            again, parts = reference.correlate(records, some)
            assert reference.told(parts) == reference.told(found)
            assert again.stats == whole.stats

    @quick
    @given(reference.workloads(), INTERNAL, BEFORE_US, st.randoms(use_true_random=False), CUTS)
    def test_the_order_of_cpus_does_not_matter(
        self, requests: list[Submitted], own: list[Hit], before: list[Submitted], random: Any, cuts: list[int]
    ) -> None:
        """Records of several CPUs lie in the ring in any interleaving; the traces are the same."""
        records = ring([walked_only(request) for request in requests] + before, own)
        mixed = records[random.sample(range(len(records)), len(records))]
        assert reference.told(reference.correlate(mixed, cuts)[1]) == reference.told(reference.correlate(records)[1])

    @quick
    @given(reference.workloads())
    def test_each_walked_call_has_its_request_and_the_rule(self, requests: list[Submitted]) -> None:
        """As the slow way judges: by range where both have one, by the walk alone above a format or an offset."""
        kept = distinct_times([kept_whole(walked_only(request)) for request in requests])
        correlator, found = reference.correlate(ring(kept))
        given_out = {}
        for traces in found:
            for call in traces.calls:
                request = int(traces.requests[call["parent"]]["request"])
                key = int(call["pid"]), int(call["submit_ns"])
                given_out[key] = request, Join(call["join"]), bool(call["disagrees"])
        expected = reference.judge(kept)
        assert given_out == expected
        assert correlator.stats.disagreements == sum(differs for _, _, differs in expected.values())

    @quick
    @given(reference.workloads(), CUTS)
    def test_the_times_are_those_of_the_calls(self, requests: list[Submitted], cuts: list[int]) -> None:
        """Where nothing was lost, wait, rbd and completion are what the slow way gives, to the nanosecond."""
        kept = [kept_whole(walked_only(request)) for request in requests]
        expected = Counter(
            reference.split_ns((r.submit_ns, r.complete_ns), [(c.submit_ns, c.complete_ns) for c in r.calls])
            for r in kept
        )
        _, found = reference.correlate(ring(kept), cuts)
        parts = ["wait_ns", "rbd_ns", "completion_ns"]
        assert Counter(row for traces in found for row in traces.requests[parts].tolist()) == expected
        assert not any(traces.requests["incomplete"].any() for traces in found)

    @settings(quick, max_examples=200)
    @given(st.binary(min_size=128, max_size=512))
    def test_garbage_is_conserved(self, data: bytes) -> None:
        """Records of known kinds with any other bytes, as a spoilt recording has them: each is given out, once."""
        records = np.frombuffer(data[: len(data) // 128 * 128], RECORD).copy()
        records["kind"], records["operation"] = records["kind"] % 2 + 1, records["operation"] % 6
        records["complete_ns"] = np.maximum(records["complete_ns"], records["submit_ns"])
        records["call_submit_ns"] |= records["kind"] == RecordKind.CALL  # a call has begun
        records["call_submit_ns"] *= (records["kind"] == RecordKind.CALL) | (records["submit_ns"] > 0)
        correlator, found = reference.correlate(records)
        check_conserved(records, correlator, found)
        for traces in found:
            check_well_formed(traces)

    def test_an_unknown_operation_fits_nothing(self) -> None:
        """A recording of a later version may hold an operation we do not know: it disagrees, and raises nothing."""
        records = ring([Submitted(submit_ns=5, complete_ns=50, calls=(Hit(submit_ns=10, complete_ns=20),))])
        records["operation"] = 200
        _, found = reference.correlate(records)
        assert found[0].calls["disagrees"].tolist() == [1]


def walked_only(request: Submitted) -> Submitted:
    """The same, where every walk arrived."""
    return replace(request, calls=tuple(replace(call, link=Link.WALK) for call in request.calls))


def kept_whole(request: Submitted) -> Submitted:
    """The same, where the ring had room."""
    return replace(request, lost=False, calls=tuple(replace(call, lost=False) for call in request.calls))


class TestMemory:
    """What is kept back, and for how long."""

    def test_a_request_waits_for_its_calls_and_then_goes(self) -> None:
        """A request whose call's record was lost leaves, marked, when `HOLD_NS` has gone by, and not before."""
        some = (Hit(submit_ns=10, complete_ns=20), Hit(submit_ns=30, complete_ns=40, lost=True))
        correlator = Correlator()

        assert not len(correlator.feed(batch(Submitted(complete_ns=50, submit_ns=5, calls=some))).requests)
        assert not len(correlator.feed(batch(at(50 + HOLD_NS))).requests[:-1])
        given_out = correlator.feed(batch(at(51 + HOLD_NS))).requests

        assert given_out["incomplete"].tolist() == [1, 0]
        assert correlator.stats.incomplete == 1

    def test_what_is_held_is_bounded_and_conserved(self) -> None:
        """Beyond the limit the older half leaves with the next batch, as it is, and none is lost."""
        some = (Hit(submit_ns=10, complete_ns=20), Hit(submit_ns=30, complete_ns=40, lost=True))
        records = ring(Submitted("WRITE", 5, 50, calls=some, address=address) for address in range(1, 11))
        correlator = Correlator(most_held=4)
        fed = [correlator.feed(Batch(part, 0)) for part in (records, records[:0])]

        assert correlator.held <= 4
        assert sum(len(traces.requests) for traces in [*fed, correlator.finish()]) == 10

    def test_nothing_gives_nothing(self) -> None:
        """An empty batch is a batch; a correlator that saw nothing finishes with nothing."""
        correlator = Correlator()
        empty = Batch(np.zeros(0, RECORD), UNIX_OFFSET_NS)
        assert [len(t.requests) + len(t.calls) for t in (correlator.feed(empty), correlator.finish())] == [0, 0]

    def test_a_batch_brings_its_clock(self) -> None:
        """Traces carry the clock offset of the newest batch."""
        batches = [Batch(ring([at(10)]), 7), Batch(ring([at(20)]), 8)]
        assert [found.unix_offset_ns for found in Pipeline().traces_of(batches)] == [7, 8, 8]


def at(complete_ns: int) -> Submitted:
    """A request without calls that ends then."""
    return Submitted(submit_ns=1, complete_ns=complete_ns, address=ADDRESS + complete_ns, pid=PID)


def batch(request: Submitted) -> Batch:
    return Batch(ring([request]), UNIX_OFFSET_NS)


class TestWalk:
    """Joins by the walk, held against direction, time, image and range."""

    @pytest.mark.parametrize(
        "request_",
        [
            Submitted("READ", 5, 50, calls=(Hit(RbdOperation.WRITE, 10, 20),)),
            Submitted("WRITE", 5, 50, calls=(Hit(submit_ns=4, complete_ns=20),)),
            Submitted("WRITE", 5, 50, calls=(Hit(submit_ns=10, complete_ns=20), Hit(submit_ns=12, complete_ns=51))),
            Submitted("WRITE", 5, 50, calls=(Hit(submit_ns=10, complete_ns=20), Hit(submit_ns=12, image=9))),
        ],
        ids=["direction", "begins before", "ends after", "another image"],
    )
    def test_what_contradicts_the_walk_is_counted(self, request_: Submitted) -> None:
        """The join stays, the call is marked, and the stage counts it."""
        correlator, found = reference.correlate(ring([request_]))
        children = np.concatenate([traces.calls for traces in found])
        assert children["disagrees"].sum() == correlator.stats.disagreements == 1
        assert (children["parent"] >= 0).all()

    def test_a_range_that_agrees_is_told(self) -> None:
        """A raw image's call lies within the bytes of its request; one elsewhere, as qcow2 makes it, is counted."""
        here = Hit(submit_ns=10, complete_ns=20, offset=4096)
        for lba, rule, differs in ((8, Join.WALK_RANGE, 0), (0, Join.WALK, 1)):
            correlator, found = reference.correlate(ring([Submitted("WRITE", 5, 50, lba, calls=(here,))]))
            assert found[0].calls[["join", "disagrees"]].tolist() == [(rule, 0)]
            assert correlator.stats.range_differs == differs

    def test_further_calls_need_no_range(self) -> None:
        """The flush of a FUA write and the discards of an UNMAP agree by the walk alone."""
        fua = (Hit(submit_ns=10, complete_ns=20), Hit(RbdOperation.FLUSH, 20, 30, 0, 0))
        discards = tuple(Hit(RbdOperation.DISCARD, 10 * i, 10 * i + 9, 2**30 * i) for i in (1, 2, 3))
        requests = [Submitted("WRITE", 5, 50, calls=fua), Submitted("UNMAP", 5, 50, calls=discards, address=1)]
        correlator, found = reference.correlate(ring(requests))
        assert found[0].calls["join"].tolist() == [Join.WALK_RANGE, *[Join.WALK] * 4]
        assert (correlator.stats.disagreements, correlator.stats.range_differs) == (0, 0)

    def test_the_first_image_of_a_disk_is_the_first_in_time(self) -> None:
        """A disk that copies to a second image has the image that it used first, whatever their handles are."""
        copied = (Hit(submit_ns=10, complete_ns=20, image=9), Hit(submit_ns=12, complete_ns=20, image=5))
        correlator, _ = reference.correlate(ring([Submitted("WRITE", 5, 50, calls=copied)]))
        assert list(correlator.images.values()) == [9]

    @pytest.mark.parametrize(("pause_ns", "disagree"), [(SILENT_NS + 100, 0), (100, 3)], ids=["swapped", "both used"])
    def test_a_disk_that_was_swapped_has_the_new_image(self, pause_ns: int, disagree: int) -> None:
        """Another disk at its address, after a pause: nothing contradicts. Two images side by side do."""
        times = [(at, 5) for at in (10, 30, 50)] + [(50 + pause_ns + at, 9) for at in (10, 30, 50)]
        requests = [
            Submitted("WRITE", at, at + 9, calls=(Hit(submit_ns=at + 1, complete_ns=at + 8, image=image),))
            for at, image in times
        ]
        correlator, _ = reference.correlate(ring(requests))
        assert correlator.stats.disagreements == disagree
        assert list(correlator.images.values()) == [5 if disagree else 9]

    def test_images_are_not_remembered_for_ever(self) -> None:
        """Of very many disks, those that were used last."""
        own = Hit(complete_ns=110)
        requests = [
            Submitted("WRITE", at, at + 9, device=at, address=at, calls=(replace(own, submit_ns=at + 1, image=at),))
            for at in range(10, 110, 10)
        ]
        correlator, _ = reference.correlate(ring(requests), range(10), Correlator(most_disks=4))
        assert (PID, 100) in correlator.images
        assert 4 <= len(correlator.images) <= 8

    def test_what_is_held_leaves_though_no_record_comes(self) -> None:
        """A guest that has gone idle: time passes by when the ring was read, and not before it was read whole."""
        open_still = Submitted("WRITE", 5, 50, calls=(Hit(submit_ns=10, complete_ns=60, lost=True),))
        records, correlator = ring([open_still]), Correlator()
        first, *_, last = Batch(np.concatenate([records] * (MOST_AT_ONCE + 1)), 0, 60 + HOLD_NS).parts()
        assert (first.read_ns, last.read_ns) == (0, 60 + HOLD_NS)
        assert len(correlator.feed(Batch(records, 0, 60)).requests) == 0
        assert len(correlator.feed(Batch(records[:0], 0, 50 + HOLD_NS)).requests) == 0
        assert len(correlator.feed(Batch(records[:0], 0, 51 + HOLD_NS)).requests) == 1
        assert correlator.held == 0

    def test_a_handle_is_of_the_disk_that_used_it_last(self) -> None:
        """librbd may open an image where it had closed another disk's."""
        requests = [
            Submitted("WRITE", at, at + 9, device=device, calls=(Hit(submit_ns=at + 1, complete_ns=at + 8, image=9),))
            for at, device in ((10, 2), (30, 1), (50, 2), (70, 1))
        ]
        correlator, _ = reference.correlate(ring(requests))
        assert correlator.images == {(PID, 1): 9}

    def test_a_process_that_dies_leaves_its_calls_with_a_reason(self) -> None:
        """Its request was in flight: records of further calls had come, the request's with the first never will."""
        killed = Submitted("UNMAP", 5, 50, lost=True, calls=tuple(replace(HELD_NOT, submit_ns=at) for at in (7, 8, 9)))
        correlator, found = reference.correlate(ring([killed]))
        assert [Join(row["join"]) for row in found[-1].calls] == [Join.PARENT_LOST] * 2
        assert correlator.held == 0

    def test_a_pid_that_is_used_again_is_another_process(self) -> None:
        """The same pid, addresses and disks after a restart: each call is under the request of its own time."""
        before = Submitted("UNMAP", 5, 50, calls=(Hit(RbdOperation.DISCARD, 6, 40), Hit(RbdOperation.DISCARD, 7, 45)))
        shift = 100 * HOLD_NS
        calls = tuple(
            replace(c, submit_ns=c.submit_ns + shift, complete_ns=c.complete_ns + shift) for c in before.calls
        )
        after = replace(before, submit_ns=5 + shift, complete_ns=50 + shift, calls=calls)
        _, found = reference.correlate(ring([before, after]))
        for traces in found:
            for index, request in enumerate(traces.requests):
                assert (traces.calls_of(index)["submit_ns"] > request["submit_ns"]).all()
                assert len(traces.calls_of(index)) == 2
