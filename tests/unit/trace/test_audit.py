# SPDX-License-Identifier: Apache-2.0
"""Joins against the exact chain: every call in exactly one place, and no false comfort."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from otel_qemu.events import AUDIT_SITES, Batch, Chain, Link, RbdOperation, RecordKind, Records
from otel_qemu.trace import audit as audit_module
from otel_qemu.trace.audit import Audit, Tally, without_walk
from otel_qemu.trace.audit_verdicts import Outcome, Verdicts
from otel_qemu.trace.pipeline import Pipeline
from otel_qemu.trace.traces import Join
from otel_qemu.views.audit import audit_lines, difference_line
from tests.support import reference
from tests.support.builders import UNIX_OFFSET_NS, Hit, Submitted, ring_of

quick = settings(deadline=None, max_examples=60, derandomize=True, database=None)
ALL_LED = (1 << len(AUDIT_SITES)) - 1
LOST = 1 << 31
FIRST, SECOND = 0x7F00_0000_0000, 0x7F00_0000_1000
CUTS = st.lists(st.integers(0, 60), max_size=60)


def verdict(call: Hit, chain: Chain, request: Submitted | None = None, led: int = ALL_LED) -> tuple[int, Any]:
    """The chain's record of a call, and when it is written."""
    named = {"request": request.address, "submit_ns": request.submit_ns} if request else {}
    half = call.half() | {"call_complete_ns": 0}
    return call.submit_ns, {"pid": call.pid, "kind": RecordKind.AUDIT, "ending": chain, "tag": led, **named, **half}


def truth(requests: Iterable[Submitted], internal: Iterable[Hit] = ()) -> list[tuple[int, Any]]:
    """What a whole chain says of every call."""
    of_requests = [verdict(call, Chain.REQUEST, request) for request in requests for call in request.calls]
    return of_requests + [verdict(call, Chain.NONE) for call in internal]


def stream(told: list[tuple[int, Any]], requests: Iterable[Submitted], internal: Iterable[Hit] = ()) -> Records:
    """The ring with the verdicts in it; of what is written at one time, they come first."""
    rows = [row for request in requests for row in request.emitted()]
    rows += [(call.complete_ns, call.record(call.request, 0)) for call in internal]
    return ring_of([*told, *rows])


def audited(records: Records, cuts: Iterable[int] = ()) -> tuple[Audit, Pipeline]:
    """An audit of everything."""
    pipeline = Pipeline(audit=True)
    for _ in pipeline.traces_of(reference.batches(records, cuts)):
        pass
    assert pipeline.audit is not None
    return pipeline.audit, pipeline


def total(tallies: dict[Join, Tally]) -> int:
    return sum(tally.total() for tally in tallies.values())


def one(call_link: Link = Link.WALK) -> Submitted:
    """A WRITE with its call."""
    return Submitted("WRITE", 1000, 2000, calls=(Hit(submit_ns=1100, complete_ns=1900, link=call_link),), address=FIRST)


def only(tallies: dict[Join, Tally], join: Join) -> Tally:
    """The tally of the only join there is."""
    assert list(tallies) == [join]
    return tallies[join]


# ---- properties ------------------------------------------------------------------------------------------------


def told_apart(requests: list[Submitted], internal: list[Hit]) -> bool:
    """Whether no two calls are the same in all that identifies one: the clock does not give two the same time."""
    calls = [*internal, *(call for request in requests for call in request.calls)]
    return len({(c.pid, c.image, c.submit_ns, c.offset, c.operation) for c in calls}) == len(calls)


INTERNAL = st.lists(
    st.builds(
        lambda begin, span: Hit(
            RbdOperation.READ, 1_000_000 + begin, 1_000_001 + begin + span, image=0x77, link=Link.NOT_IN_FLIGHT
        ),
        *(st.integers(0, 200), st.integers(0, 50)),
    ),
    max_size=3,
)


@quick
@given(requests=reference.workloads(), internal=INTERNAL, cuts=CUTS)
def test_the_walks_joins_agree_with_a_true_chain(requests: list[Submitted], internal: list[Hit], cuts: Any) -> None:
    """However the stream is cut, and whatever is lost of it: what was walked agrees, and so does what is QEMU's own."""
    assume(told_apart(requests, internal))
    records = stream(truth(requests, internal), requests, internal)
    audit, pipeline = audited(records, cuts)
    for join in (Join.WALK, Join.WALK_RANGE, Join.PARENT_LOST, Join.INTERNAL):
        tally = audit.joins.get(join, Tally())
        assert (tally[Outcome.DIFFER], tally[Outcome.MISSED], tally[Outcome.SILENT]) == (0, 0, 0)
    assert total(audit.joins) == pipeline.stats.calls
    assert audit.verdicts == np.count_nonzero(records["kind"] == RecordKind.AUDIT)


@quick
@given(requests=reference.workloads(walk=False), cuts=CUTS)
def test_each_difference_is_one(requests: list[Submitted], cuts: Any) -> None:
    """What rules without a walk make of it is counted as right exactly where it is: by the maker of each call."""
    assume(told_apart(requests, []))
    audit, _ = audited(stream(truth(requests), requests), cuts)
    maker = {
        (c.pid, c.image, c.submit_ns, c.offset, c.operation): (r.address, r.submit_ns)
        for r in requests
        for c in r.calls
    }
    for difference in (*audit.differences, *audit.unwalked_differences):
        row = difference.call
        key = tuple(int(row[name]) for name in ("pid", "image", "submit_ns", "offset", "operation"))
        ours = difference.ours
        assert maker[key] == (difference.request, difference.submit_ns)  # type: ignore[index]
        assert ours is None or (int(ours["request"]), int(ours["submit_ns"])) != maker[key]  # type: ignore[index]
    for differences, tallies in ((audit.differences, audit.joins), (audit.unwalked_differences, audit.unwalked)):
        wrong, missed = (sum(t[outcome] for t in tallies.values()) for outcome in (Outcome.DIFFER, Outcome.MISSED))
        assert len(differences) == sum(min(found, audit_module.MOST_DIFFERENCES) for found in (wrong, missed))


@quick
@given(requests=reference.workloads(), cuts=CUTS)
def test_cutting_does_not_matter(requests: list[Submitted], cuts: Any) -> None:
    assume(told_apart(requests, []))
    records = stream(truth(requests), requests)
    whole, pieces = audited(records)[0], audited(records, cuts)[0]
    assert pieces.joins == whole.joins
    assert pieces.unwalked == whole.unwalked


@quick
@given(requests=reference.workloads())
def test_without_the_walk_the_calls_are_the_same(requests: list[Submitted]) -> None:
    """Every ended call is there once, by itself, naming nobody; the requests have none and are the same."""
    records = stream([], requests)
    bare = without_walk(records)
    calls, before = bare[bare["kind"] == RecordKind.CALL], records[records["call_complete_ns"] > 0]
    names = ["pid", "image", "operation", "call_submit_ns", "call_complete_ns", "offset", "length"]
    assert sorted(calls[names].tolist()) == sorted(before[names].tolist())
    assert set(calls["link"].tolist()) <= {Link.NO_LAYOUT}
    assert not calls["request"].any()
    assert not calls["submit_ns"].any()
    left = bare[bare["kind"] == RecordKind.REQUEST]
    assert not left["call_submit_ns"].any()
    assert not left["calls"].any()
    kept = ["pid", "request", "submit_ns", "complete_ns", "cdb", "device"]
    assert np.array_equal(left[kept], records[records["kind"] == RecordKind.REQUEST][kept])


# ---- verdict by verdict ----------------------------------------------------------------------------------------


def test_a_wrong_join_is_found_and_explained() -> None:
    """The walk names one request, the chain another one that was in flight."""
    right = one()
    other = replace(right, submit_ns=1050, address=SECOND, calls=(), lba=64)
    audit, pipeline = audited(stream([verdict(right.calls[0], Chain.REQUEST, other)], [right, other]))
    assert only(audit.joins, Join.WALK_RANGE) == Tally({Outcome.DIFFER: 1})
    line = difference_line(audit.differences[0])
    assert f"joined to WRITE lba=0 4096 bytes {FIRST:#x}, submitted 0.000 ms before" in line
    assert f"the chain says WRITE lba=64 4096 bytes {SECOND:#x}" in line
    assert line in "\n".join(audit_lines(audit, pipeline.stats))


def test_the_same_address_at_another_time_is_another_request() -> None:
    right = one()
    before = replace(right, submit_ns=10, complete_ns=900, calls=())
    audit, _ = audited(stream([verdict(right.calls[0], Chain.REQUEST, before)], [right, before]))
    assert only(audit.joins, Join.WALK_RANGE) == Tally({Outcome.DIFFER: 1})


@pytest.mark.parametrize(
    ("chain", "led", "tally", "why"),
    [
        (Chain.NONE, ALL_LED, Tally({Outcome.DIFFER: 1}), None),
        (Chain.NONE, ALL_LED & ~1, Tally({Outcome.SILENT: 1}), "some of the chain never ran"),
        (Chain.NONE, ALL_LED & ~4, Tally({Outcome.SILENT: 1}), "some of the chain never ran"),
        (Chain.NONE, ALL_LED & ~2, Tally({Outcome.DIFFER: 1}), None),  # blk_aio_preadv, which a WRITE does not pass
        (Chain.NONE, ALL_LED | LOST, Tally({Outcome.SILENT: 1}), "some of the chain never ran"),
        (Chain.BROKEN, ALL_LED, Tally({Outcome.SILENT: 1}), "its thread had not been seen to switch"),
    ],
)
def test_a_chain_that_is_not_whole_says_nothing(chain: Chain, led: int, tally: Tally, why: str | None) -> None:
    """That it knows of no request is a difference where all that the join would have passed has led before."""
    request = one()
    audit, _ = audited(stream([verdict(request.calls[0], chain, None, led)], [request]))
    assert only(audit.joins, Join.WALK_RANGE) == tally
    assert list(audit.silences) == ([why] if why else [])


def test_a_lost_verdict_is_silence() -> None:
    """The ring was full for one of two."""
    requests = [one(), replace(one(), submit_ns=3000, complete_ns=4000, calls=(Hit(submit_ns=3100, complete_ns=3200),))]
    audit, _ = audited(stream(truth(requests[:1]), requests))
    assert only(audit.joins, Join.WALK_RANGE) == Tally({Outcome.AGREED: 1, Outcome.SILENT: 1})
    assert audit.silences == {"the verdict was lost": 1}


@pytest.mark.parametrize(
    ("chain", "led", "tally"),
    [
        (Chain.NONE, ALL_LED, Tally({Outcome.AGREED: 1})),
        (Chain.NONE, ALL_LED & ~4, Tally({Outcome.SILENT: 1})),
        (Chain.REQUEST, ALL_LED, Tally({Outcome.MISSED: 1})),
        (Chain.BROKEN, ALL_LED, Tally({Outcome.SILENT: 1})),
    ],
)
def test_a_call_left_alone(chain: Chain, led: int, tally: Tally) -> None:
    """QEMU's own in both, or missed; without a function that it would have come through, nothing is known."""
    request = replace(one(), calls=())
    own = Hit(submit_ns=1100, complete_ns=1200, link=Link.NOT_IN_FLIGHT)
    found = verdict(own, chain, request if chain == Chain.REQUEST else None, led)
    audit, _ = audited(stream([found], [request], [own]))
    assert only(audit.joins, Join.INTERNAL) == tally


def test_the_rules_without_walk_are_audited_as_well() -> None:
    """One WRITE is joined by its range alone; of two flushes at once, each is left alone, and missed."""
    flush = Submitted(
        "SYNCHRONIZE_CACHE", 3000, 4000, calls=(Hit(RbdOperation.FLUSH, 3100, 3200, 0, 0),), address=FIRST
    )
    second = replace(flush, address=SECOND, calls=(Hit(RbdOperation.FLUSH, 3300, 3400, 0, 0),))
    requests = [one(), flush, second]
    audit, _ = audited(stream(truth(requests), requests))
    assert audit.joins == {Join.WALK_RANGE: Tally({Outcome.AGREED: 1}), Join.WALK: Tally({Outcome.AGREED: 2})}
    assert audit.unwalked == {Join.RANGE: Tally({Outcome.AGREED: 1}), Join.UNMATCHED: Tally({Outcome.MISSED: 2})}


def test_without_verdicts_there_is_no_audit() -> None:
    """A recording that was made without it: batches pass as they are, and nothing is compared."""
    batch = Batch(stream([], [one()]), UNIX_OFFSET_NS)
    audit = Audit()
    assert audit.take(batch) is batch
    assert audited(batch.records)[0].joins == {}


def test_verdicts_of_calls_that_were_not_kept_are_given_up() -> None:
    """When one trace in many is kept, most verdicts have no call: they do not accumulate."""
    verdicts = Verdicts(most_held=100)
    for number in range(50):
        calls = [Hit(submit_ns=1000 * number + at) for at in range(20)]
        verdicts.keep(ring_of([verdict(call, Chain.NONE) for call in calls]))
    assert verdicts.count == 1000
    assert len(verdicts.held) <= 120


def test_the_report_has_a_line_a_rule() -> None:
    requests = [one()]
    audit, pipeline = audited(stream(truth(requests), requests))
    lines = list(audit_lines(audit, pipeline.stats))
    assert lines[0] == "audit: the exact chain's verdict on 1 RBD calls"
    assert [line.split() for line in lines[1:5]] == [
        ["joins", "agreed", "differ", "missed", "silent"],
        ["walk+range", "1", "0", "0", "0"],
        ["without", "the", "walk", "agreed", "differ", "missed", "silent"],
        ["range", "1", "0", "0", "0"],
    ]
    assert lines[5] == "  walk and range disagree: 0 of 1 joins; walk and image, direction or time: 0"
