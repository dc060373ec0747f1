# SPDX-License-Identifier: Apache-2.0
"""Which traces get a record: errors, slow ones, one in N, or all of a process; always whole traces."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_qemu.events import Ending, Kept, RbdOperation, RecordKind
from otel_qemu.policy import COUNTS_ONLY, EVERYTHING, KeepPolicy
from tests.bpf.machine import PID, READ_10, Completion, Machine, Request
from tests.bpf.rooms import room_for

READ_16, WRITE_10 = b"\x88" + bytes(15), b"\x2a" + bytes(9)
UNIT_ATTENTION = b"\x70\0\x06"
HIGHEST = 2**32 - 1
"""The greatest random number: whatever the rate, it means no; 0 means yes."""


def machine_with_policy(policy: KeepPolicy, *, dice: int = HIGHEST, **others: object) -> Machine:
    """Return a machine that draws the same random number each time."""
    machine = Machine(policy=policy, **others)  # type: ignore[arg-type]
    machine.world.dice = dice
    return machine


def request(machine: Machine, duration_ns: int = 0, cdb: bytes = READ_10, calls: int = 0) -> None:
    """Make a request that takes this long; its calls end before it, in another order than they began."""
    one = machine.submit_request(cdb)
    made = [machine.call(one, RbdOperation.DISCARD) for _ in range(calls)]
    for call in reversed(made):
        machine.release(call, 0)
    machine.now_ns += duration_ns
    machine.complete(one)


def lone_call(machine: Machine, duration_ns: int = 0, value: int = 0) -> None:
    """Make a call without a request."""
    call = machine.call(None, RbdOperation.READ)
    machine.now_ns += duration_ns
    machine.release(call, value)


def test_everything_is_kept_without_a_throw() -> None:
    """With one_in 1 no random number is drawn, for requests and calls alike."""
    machine = machine_with_policy(EVERYTHING)
    request(machine, calls=3)
    lone_call(machine)
    assert machine.records()["kept"].tolist() == [Kept.SAMPLED] * 4
    assert machine.world.throws == 0


def test_nothing_is_kept_without_a_throw() -> None:
    """With one_in 0 none is drawn either; each request and each lone call is counted as not kept."""
    machine = machine_with_policy(COUNTS_ONLY, dice=0)
    request(machine, calls=3)
    lone_call(machine)
    assert not len(machine.records())
    assert machine.world.throws == 0
    counted = machine.counted()
    assert (counted["requests_not_kept"], counted["calls_not_kept"]) == (1, 1)
    assert "records" not in counted
    assert not any(machine.table_sizes().values())


def ends(machine: Machine, how: str) -> None:
    """Make one request that ends in an error."""
    one = machine.submit_request()
    machine.release(machine.call(one, RbdOperation.READ), -5)
    machine.release(machine.call(one, RbdOperation.READ), 0)
    if how == "status":
        machine.complete(one, 2, UNIT_ATTENTION)
    elif how == "failed":
        machine.fail(one, 7)
    elif how == "cancelled":
        machine.cancel(one)
    else:
        machine.forget(one)
        machine.submit_request(tag=8)  # with the same tag it would be a retry: a call has failed


@pytest.mark.parametrize("how", ["status", "failed", "cancelled", "lost"])
def test_an_error_is_always_kept_with_its_calls(how: str) -> None:
    """A bad status, a failure, an abort and a lost end are kept by every policy."""
    machine = machine_with_policy(COUNTS_ONLY)
    ends(machine, how)
    records = machine.records()
    assert records["kind"].tolist() == [RecordKind.REQUEST, RecordKind.CALL]
    assert records["kept"].tolist() == [Kept.ERROR] * 2
    assert machine.world.throws == 0


@pytest.mark.parametrize("status", [0, 4])
def test_a_good_status_is_no_error(status: int) -> None:
    """GOOD and CONDITION MET are good."""
    machine = machine_with_policy(COUNTS_ONLY)
    machine.complete(machine.submit_request(), status)
    assert not len(machine.records())


def test_a_call_that_failed_below_a_request_that_did_not_is_no_error() -> None:
    """The guest's view counts: QEMU tried again."""
    machine = machine_with_policy(COUNTS_ONLY)
    one = machine.submit_request()
    machine.release(machine.call(one, RbdOperation.READ), -28)
    machine.complete(one)
    assert not len(machine.records())


@pytest.mark.parametrize(("value", "kept"), [(-5, True), (0, False), (4096, False)])
def test_a_call_without_request_is_kept_for_its_error(value: int, kept: bool) -> None:
    """A negative return value is an error; an unknown one is not."""
    machine = machine_with_policy(COUNTS_ONLY)
    lone_call(machine, value=value)
    machine.refuse(machine.call(None, RbdOperation.READ))
    assert machine.records()["kept"].tolist() == [Kept.ERROR] * kept
    assert machine.counted()["calls_not_kept"] == 2 - kept


@pytest.mark.parametrize("cdb", [READ_10, READ_16, WRITE_10, b"\xc0" + bytes(9)])
def test_slow_is_from_the_threshold_of_the_operation_on(cdb: bytes) -> None:
    """A request is slow from exactly its threshold on; the operation's own threshold goes before the general one."""
    machine = machine_with_policy(KeepPolicy(0, 1e-3, (("READ", 5e-3),)))
    threshold_ns = 5_000_000 if cdb in (READ_10, READ_16) else 1_000_000
    for more in (-1, 0, 1):
        request(machine, threshold_ns + more, cdb, calls=2)
    records = machine.records()
    requests = records[records["kind"] == RecordKind.REQUEST]
    assert (requests["complete_ns"] - requests["submit_ns"]).tolist() == [threshold_ns, threshold_ns + 1]
    assert records["kept"].tolist() == [Kept.SLOW] * 4
    assert machine.counted()["requests_not_kept"] == 1


def test_a_slow_operation_alone_leaves_the_others_out() -> None:
    """Without a general threshold, only the operation's own counts."""
    machine = machine_with_policy(KeepPolicy(0, None, (("WRITE", 1e-3),)))
    for cdb in (READ_10, WRITE_10):
        request(machine, 10**12, cdb)
    lone_call(machine, 10**12)
    assert machine.records()["cdb"][:, 0].tolist() == [0x2A]


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_a_call_without_request_is_slow_by_the_threshold_of_all(more: int) -> None:
    """Thresholds of operations do not apply to it."""
    machine = machine_with_policy(KeepPolicy(0, 1e-3, (("READ", 1e-6),)))
    lone_call(machine, 1_000_000 + more)
    assert machine.records()["kept"].tolist() == [Kept.SLOW] * (more >= 0)


def test_the_rarest_reason_is_recorded() -> None:
    """A slow error is an error, and a slow request is not sampled."""
    machine = machine_with_policy(KeepPolicy(1, 1e-9))
    machine.now_ns += 1
    one = machine.submit_request()
    machine.now_ns += 10
    machine.complete(one, 2, UNIT_ATTENTION)
    request(machine, 10)
    request(machine, 0)
    assert machine.records()["kept"].tolist() == [Kept.ERROR, Kept.SLOW, Kept.SAMPLED]


@pytest.mark.parametrize("one_in", [2, 3, 10, 1000, 2**32, 2**40])
def test_the_random_number_decides_at_exactly_one_in_n(one_in: int) -> None:
    """Random numbers below 2^32 / N keep a trace; all others do not."""
    limit = 2**32 // one_in
    for dice in {0, max(limit - 1, 0), limit, HIGHEST}:
        machine = machine_with_policy(KeepPolicy(one_in), dice=dice)
        request(machine)
        lone_call(machine)
        assert len(machine.records()) == 2 * (dice < limit)
        assert machine.world.throws == 2


@settings(derandomize=True, database=None, max_examples=50, deadline=None)
@given(st.integers(1, 50), st.integers(0, HIGHEST), st.integers(0, HIGHEST), st.integers(0, 40))
def test_as_many_are_kept_as_random_numbers_decide(one_in: int, first: int, step: int, count: int) -> None:
    """One number is drawn per request, in their order, and traces are whole."""
    machine = machine_with_policy(KeepPolicy(one_in), dice=first)
    machine.world.dice_step = step
    for tag in range(count):
        one = machine.submit_request(tag=tag)
        for _ in range(2):
            machine.release(machine.call(one, RbdOperation.DISCARD), 0)
        machine.complete(one)
    wanted = [tag for tag in range(count) if one_in == 1 or (first + tag * step) % 2**32 < 2**32 // one_in]
    records = machine.records()
    requests = records[records["kind"] == RecordKind.REQUEST]
    assert requests["tag"].tolist() == wanted
    assert len(records) == 2 * len(wanted)
    assert machine.counters()["requests_not_kept"] == count - len(wanted)
    assert not any(machine.table_sizes().values())


def test_a_request_that_is_not_kept_takes_its_calls_with_it() -> None:
    """Its held calls are removed, and not counted as a loss."""
    machine = machine_with_policy(COUNTS_ONLY)
    request(machine, calls=200)
    assert not any(machine.table_sizes().values())
    assert not len(machine.records())
    assert machine.counted().keys() == {
        *("scsi_submitted", "scsi_completed", "rbd_submitted", "rbd_completed", "parent_found", "requests_not_kept")
    }


def test_a_call_after_the_end_of_its_request_is_judged_by_itself() -> None:
    """Whether its request is kept or not, it is a trace of its own."""
    machine = machine_with_policy(KeepPolicy(0, 1e-3))
    for call_ns, status in ((10, 0), (2_000_000, 0), (10, 2)):
        one = machine.submit_request()
        call = machine.call(one, RbdOperation.READ)
        machine.complete(one, status, UNIT_ATTENTION)
        machine.now_ns += call_ns
        machine.release(call, 0)
    records = machine.records()
    assert records["kind"].tolist() == [RecordKind.CALL, RecordKind.REQUEST]
    assert records["kept"].tolist() == [Kept.SLOW, Kept.ERROR]
    counted = machine.counted()
    assert (counted["requests_not_kept"], counted["calls_not_kept"], counted["parent_gone"]) == (2, 2, 3)


def test_the_end_of_a_request_from_before_us_is_always_kept() -> None:
    """It explains calls without a parent, and it is rare."""
    machine = machine_with_policy(COUNTS_ONLY)
    machine.complete(machine.allocate_request())
    assert [(int(r["submit_ns"]), int(r["kept"])) for r in machine.records()] == [(0, Kept.SAMPLED)]
    assert "requests_not_kept" not in machine.counted()


def test_a_process_of_which_all_is_needed_is_not_thinned_out() -> None:
    """Its requests and calls are kept without a draw, with the reason that applies; other processes are sampled."""
    machine = machine_with_policy(KeepPolicy(0, 1e-3), keep_all=True)
    request(machine, calls=2)
    request(machine, 1_000_000)
    lone_call(machine)
    machine.complete(machine.submit_request(), 2, UNIT_ATTENTION)
    other = PID + 1
    machine.trace(other, machine.layout)
    machine.pid = other
    request(machine, calls=2)
    lone_call(machine)
    records = machine.records()
    assert records["kept"].tolist() == [*[Kept.JOINED_LATER] * 2, Kept.SLOW, Kept.JOINED_LATER, Kept.ERROR]
    assert set(records["pid"].tolist()) == {PID}
    assert (machine.counted()["requests_not_kept"], machine.counted()["calls_not_kept"]) == (1, 1)


def test_what_is_kept_but_finds_the_ring_full_is_told_apart() -> None:
    """A trace that is not kept, and one that finds no room, have counters of their own."""
    machine = machine_with_policy(KeepPolicy(0, 1e-3), ring_bytes=room_for(1))
    for duration_ns in (0, 1_000_000, 1_000_000, 0):
        request(machine, duration_ns, calls=2)
    counted = machine.counted()
    assert (counted["requests_not_kept"], counted["ring_full_request"]) == (2, 2)
    assert not len(machine.records())


@settings(derandomize=True, database=None, max_examples=80, deadline=None)
@given(
    st.integers(0, 4), st.integers(0, 4), st.integers(0, 8), st.integers(0, 6),
    st.lists(
        st.tuples(st.sampled_from(["complete", "check", "cancel", "forget", "unstarted", "late", "lone"]),
                  st.integers(0, 4), st.integers(0, 6)),
        max_size=25,
    ),
)  # fmt: skip
def test_every_request_and_call_has_a_record_or_a_reason(
    one_in: int, slow_ns: int, room: int, held: int, made: list[tuple[str, int, int]]
) -> None:
    """Records and reasons add up to all requests, and to all calls."""
    policy = KeepPolicy(one_in, slow_ns * 1e-9 if slow_ns else None)
    machine = machine_with_policy(policy, dice=0, ring_bytes=room_for(room), tables={"held": held})
    machine.world.dice_step = 0x6000_0001
    late: list[Completion] = []
    open_requests: list[Request] = []
    for how, calls, duration_ns in made:
        if how == "lone":
            lone_call(machine, duration_ns)
        elif how == "unstarted":
            machine.complete(machine.allocate_request())
        else:
            one = machine.submit_request()
            for _ in range(calls):
                machine.release(machine.call(one, RbdOperation.DISCARD), 0)
            if how == "late":
                late.append(machine.call(one, RbdOperation.READ))
            machine.now_ns += duration_ns
            {"check": lambda r: machine.complete(r, 2, UNIT_ATTENTION), "cancel": machine.cancel,
             "forget": open_requests.append}.get(how, machine.complete)(one)  # fmt: skip
    for one in open_requests:
        machine.enqueue(one)
        machine.complete(one)
    for call in late:
        machine.release(call, 0)

    records, counters = machine.records(), machine.counters()
    requests = records[records["kind"] == RecordKind.REQUEST]
    assert len(records) == counters["records"]
    ended = counters["scsi_completed"] + counters["scsi_end_lost"] + counters["scsi_unstarted"]
    assert ended == len(requests) + counters["ring_full_request"] + counters["requests_not_kept"]
    assert not any(machine.table_sizes().values())
    if not (requests_shed := counters["ring_full_request"] + counters["requests_not_kept"]):
        inside = int((requests["call_complete_ns"] > 0).sum())
        lone = len(records) - len(requests)
        reasons = counters["ring_full_call"] + counters["calls_not_kept"] + counters["calls_not_held"]
        # A first call that ended late is in its request's record without an end, and a record of its own.
        assert counters["rbd_completed"] == inside + lone + reasons
    assert requests_shed <= ended
    assert set(requests[requests["ending"] == Ending.LOST]["kept"].tolist()) <= {Kept.ERROR}
