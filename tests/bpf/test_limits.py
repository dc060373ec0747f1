# SPDX-License-Identifier: Apache-2.0
"""A full table, a full ring and too many calls cost a count, and never half a trace."""

import pytest

from otel_qemu.events import Ending, Layer, Link, RbdOperation, RecordKind
from tests.bpf.machine import Machine, Request
from tests.bpf.rooms import room_for

MAX_CALLS = 256


def trace(machine: Machine, calls: int, tag: int = 7) -> Request:
    """Make a request with this many calls, one after the other."""
    request = machine.submit_request(tag=tag)
    for _ in range(calls):
        machine.release(machine.call(request, RbdOperation.DISCARD), 0)
    machine.complete(request)
    return request


def test_a_request_that_finds_the_table_full_is_counted() -> None:
    """It is not in flight: its call has no parent, its end is unstarted, and other requests are not affected."""
    machine = Machine(tables={"requests": 2})
    others = [machine.submit_request(tag=tag) for tag in (1, 2)]
    request = machine.submit_request(tag=3)
    machine.release(machine.call(request, RbdOperation.READ), 0)
    machine.complete(request)
    for other in others:
        machine.release(machine.call(other, RbdOperation.READ), 0)
        machine.complete(other)
    call, end, *records = machine.records()
    assert (call["kind"], call["link"], end["submit_ns"]) == (RecordKind.CALL, Link.NOT_IN_FLIGHT, 0)
    assert [(int(record["tag"]), int(record["calls"])) for record in records] == [(1, 1), (2, 1)]
    counted = machine.counted()
    assert (counted["scsi_table_full"], counted["scsi_unstarted"], counted["scsi_completed"]) == (1, 1, 2)


def test_a_full_table_takes_requests_again_when_one_has_ended() -> None:
    """The end of one request makes room for another."""
    machine = Machine(tables={"requests": 1})
    trace(machine, 1)
    trace(machine, 1)
    assert "scsi_table_full" not in machine.counted()
    assert len(machine.records()) == 2


def test_a_lost_end_in_a_full_table_makes_room_for_its_successor() -> None:
    """The same address replaces its own entry, whatever the table's size."""
    machine = Machine(tables={"requests": 1})
    machine.forget(machine.submit_request())
    machine.complete(machine.submit_request())
    assert [int(record["ending"]) for record in machine.records()] == [Ending.LOST, Ending.COMPLETED]
    assert "scsi_table_full" not in machine.counted()


def test_a_call_that_finds_the_table_full_is_counted() -> None:
    """Its request does not have it, its release is unstarted, and the next call is the request's second."""
    machine = Machine(tables={"calls": 1})
    request = machine.submit_request()
    first = machine.call(request, RbdOperation.READ)
    untraced = machine.call(request, RbdOperation.READ)
    machine.release(untraced, 0)
    machine.release(first, 0)
    machine.release(machine.call(request, RbdOperation.READ), 0)
    machine.complete(request)
    assert [int(record["calls"]) for record in machine.records()] == [2, 0]
    counted = machine.counted()
    assert (counted["rbd_table_full"], counted["rbd_unstarted"], counted["rbd_submitted"]) == (1, 1, 2)


def test_a_call_that_cannot_be_held_leaves_no_record() -> None:
    """Without room in the table of held calls, a further call is only counted, also in the histograms."""
    machine = Machine(tables={"held": 1})
    request = machine.submit_request()
    for length in (1, 2, 3, 4):
        machine.release(machine.call(request, RbdOperation.DISCARD, length=length), 0)
    assert not len(machine.records())
    machine.complete(request)
    records = machine.records()
    assert records["length"].tolist() == [1, 2]
    assert records[0]["calls"] == 4
    assert machine.counted()["calls_not_held"] == 2
    series, latencies = machine.latencies()
    (calls,) = latencies[series["layer"] == Layer.RBD]
    assert (calls["duration"]["counts"].sum(), calls["bytes"]) == (4, 1 + 2 + 3 + 4)
    assert not any(machine.table_sizes().values())


@pytest.mark.parametrize("calls", [MAX_CALLS, MAX_CALLS + 1, MAX_CALLS + 44])
def test_calls_beyond_the_most_leave_no_record(machine: Machine, calls: int) -> None:
    """The first 256 calls are held until their request ends, and the others are counted."""
    trace(machine, calls)
    records = machine.records()
    assert len(records) == MAX_CALLS
    request = records[records["kind"] == RecordKind.REQUEST]
    assert request["calls"].tolist() == [calls]
    assert machine.counters()["calls_not_held"] == calls - MAX_CALLS
    assert not any(machine.table_sizes().values())


@pytest.mark.parametrize("calls", [0, 1, 5])
def test_a_trace_that_finds_the_ring_full_is_dropped_whole(calls: int) -> None:
    """The request and its further calls count as one dropped request, and no entry remains."""
    machine = Machine(ring_bytes=room_for(1))
    trace(machine, 1, tag=1)
    trace(machine, calls, tag=2)
    assert machine.records()["tag"].tolist() == [1]
    assert not any(machine.table_sizes().values())
    counted = machine.counted()
    assert (counted["ring_full_request"], counted["records"]) == (1, 1)
    assert "ring_full_call" not in counted
    trace(machine, 1, tag=3)
    assert machine.records()["tag"].tolist() == [3]


@pytest.mark.parametrize("room", [1, 2, 4])
def test_a_trace_for_which_the_ring_has_too_little_room_is_dropped_whole(room: int) -> None:
    """A request with five calls needs five records; with less room, its own record is discarded, too."""
    machine = Machine(ring_bytes=room_for(room))
    trace(machine, 5)
    records = machine.records()
    assert records["kind"].tolist() == [RecordKind.CALL] * (room - 1)
    counted = machine.counted()
    assert (counted["ring_full_request"], counted.get("records", 0)) == (1, room - 1)
    assert "ring_full_call" not in counted
    assert not any(machine.table_sizes().values())


def test_a_trace_that_just_fits_is_whole() -> None:
    """A request with five calls and room for five records."""
    machine = Machine(ring_bytes=room_for(5))
    trace(machine, 5)
    assert machine.records()["calls"].tolist() == [5, 0, 0, 0, 0]
    assert machine.counted()["records"] == 5


def test_the_oldest_records_of_an_unread_ring_are_kept() -> None:
    """The first records stay, and every later request is counted as dropped."""
    machine = Machine(ring_bytes=room_for(3))
    for tag in range(10):
        trace(machine, 1, tag)
    assert machine.records()["tag"].tolist() == [0, 1, 2]
    assert machine.counted()["ring_full_request"] == 7


def test_a_call_without_parent_that_finds_the_ring_full_is_counted() -> None:
    """It counts as one dropped call."""
    machine = Machine(ring_bytes=room_for(0))
    machine.release(machine.call(None, RbdOperation.READ), 0)
    assert not len(machine.records())
    assert machine.counted()["ring_full_call"] == machine.counted()["rbd_completed"] == 1


def test_an_unstarted_or_lost_request_that_finds_the_ring_full_is_counted() -> None:
    """It counts as one dropped request, however it ended."""
    machine = Machine(ring_bytes=room_for(0))
    machine.complete(machine.allocate_request())
    machine.forget(machine.submit_request())
    machine.submit_request()
    counted = machine.counted()
    assert (counted["ring_full_request"], counted["scsi_unstarted"], counted["scsi_end_lost"]) == (2, 1, 1)
