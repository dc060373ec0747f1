# SPDX-License-Identifier: Apache-2.0
"""librbd calls: their request, their length and their return value."""

import pytest

from otel_qemu.events import RETURN_UNKNOWN, Link, RbdOperation, RecordKind
from tests.bpf.machine import IMAGE, SUBMITTER, Machine, Via

GIB = 1 << 30


@pytest.mark.parametrize("via", Via)
@pytest.mark.parametrize("operation", RbdOperation)
def test_every_operation_finds_its_parent_by_every_way(any_machine: Machine, operation: RbdOperation, via: Via) -> None:
    """READ, FUA and WRITE SAME, UNMAP, detect-zeroes: whatever the opaque is, the call is under its own request."""
    machine = any_machine
    others = [machine.submit_request(tag=tag) for tag in range(3)]
    request = machine.submit_request(tag=9)
    machine.release(machine.call(request, operation, offset=512, length=1024, via=via), 0)
    for one in [*others, request]:
        machine.complete(one)
    records = machine.records()
    assert [int(record["calls"]) for record in records] == [0, 0, 0, 1]
    assert (records[3]["tag"], records[3]["operation"], records[3]["link"]) == (9, operation, Link.WALK)
    extent = (0, 0) if operation == RbdOperation.FLUSH else (512, 1024)
    assert (records[3]["offset"], records[3]["length"]) == extent


@pytest.mark.parametrize("operation", [RbdOperation.READ, RbdOperation.WRITE])
def test_the_calls_without_iovec_are_traced_too(machine: Machine, operation: RbdOperation) -> None:
    """rbd_aio_read and rbd_aio_write, of QEMU built with an old librbd, have offset and length in registers."""
    request = machine.submit_request()
    completion = machine.prepare(request, Via.DMA)
    machine.hit(f"rbd_aio_{operation.name.lower()}", IMAGE, 5 * GIB, 3 * GIB, 0xBAD, completion.address)
    machine.release(completion, 0)
    machine.complete(request)
    (record,) = machine.records()
    assert (record["operation"], record["image"]) == (operation, IMAGE)
    assert (record["offset"], record["length"]) == (5 * GIB, 3 * GIB)


def test_a_fua_write_is_two_calls_of_one_request(machine: Machine) -> None:
    """The write is in the request's record, the flush after it in a record of its own that names the request."""
    request = machine.submit_request(b"\x2a\x08" + bytes(8))
    machine.release(machine.call(request, RbdOperation.WRITE, length=4096), 0)
    machine.now_ns += 10
    flush = machine.call(request, RbdOperation.FLUSH)
    machine.now_ns += 30
    machine.release(flush, 0)
    machine.complete(request)
    record, further = machine.records()
    assert (record["kind"], record["calls"], record["operation"]) == (RecordKind.REQUEST, 2, RbdOperation.WRITE)
    assert (further["kind"], further["operation"], further["link"]) == (RecordKind.CALL, RbdOperation.FLUSH, Link.WALK)
    for name in ("pid", "request", "submit_ns", "device"):
        assert further[name] == record[name]
    assert (further["call_submit_ns"], further["call_complete_ns"]) == (1_000_010, 1_000_040)


def test_the_scsi_half_of_a_further_call_is_empty(machine: Machine) -> None:
    """Beyond the fields that name its request and its device, a call's record has nothing of the SCSI half."""
    request = machine.submit_request(tag=5, lun=3)
    for _ in range(2):
        machine.release(machine.call(request, RbdOperation.WRITE), 0)
    machine.complete(request, 2, b"\x70\0\x03")
    further = machine.records()[1]
    assert not further["cdb"].any()
    names = "ending complete_ns transfer_bytes tag lun status host_status sense_key retries calls rbd_ns"
    assert not any(further[name] for name in names.split())


def test_unmap_of_255_descriptors_is_255_calls(machine: Machine) -> None:
    """One call a descriptor, one after the other: all are kept until the request ends, in order."""
    request = machine.submit_request(b"\x42" + bytes(9))
    for number in range(255):
        completion = machine.call(request, RbdOperation.DISCARD, offset=number << 20, length=number)
        machine.now_ns += 10
        machine.release(completion, 0)
        machine.now_ns += 1
    assert not len(machine.records())
    machine.complete(request)
    records = machine.records()
    assert (records[0]["calls"], records[0]["rbd_ns"]) == (255, 2550)
    assert [int(length) for length in records["length"]] == list(range(255))
    assert set(records["kind"][1:]) == {RecordKind.CALL}
    assert machine.table_sizes()["held"] == 0


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 255, 256, 1016, 1023, 1024])
def test_the_length_is_the_sum_of_the_iovec(machine: Machine, count: int) -> None:
    """Every entry is summed and none beyond the last, up to IOV_MAX entries."""
    lengths = [(index * 512 + 1) << 10 for index in range(count)]
    request = machine.submit_request()
    machine.release(machine.call(request, RbdOperation.WRITE, iovecs=lengths), 0)
    machine.complete(request)
    assert machine.records()["length"].tolist() == [sum(lengths)]
    assert "length_unreadable" not in machine.counted()


@pytest.mark.parametrize(("readable", "count"), [(0, 1), (0, 8), (8, 9), (16, 20), (1016, 1024)])
def test_an_iovec_unreadable_from_some_entry_on_is_counted(machine: Machine, readable: int, count: int) -> None:
    """The length is what could be read, eight entries a read, and the call is traced all the same."""
    request = machine.submit_request()
    completion = machine.prepare(request, Via.DMA)
    iovec = machine.iovec([512] * count)
    machine.hole(iovec + 16 * readable, 16 * (count - readable))
    machine.call_vector(completion, RbdOperation.READ, iovec, count, 0)
    machine.release(completion, 0)
    machine.complete(request)
    (record,) = machine.records()
    assert (record["length"], record["link"]) == (512 * readable, Link.WALK)
    assert machine.counted()["length_unreadable"] == machine.world.faults_injected == 1


def test_the_memory_of_a_foreign_process_is_not_read(machine: Machine) -> None:
    """A call in a process that is not traced is counted as foreign and costs no read."""
    machine.pid += 1
    completion = machine.prepare(None, Via.DMA)
    machine.call_vector(completion, RbdOperation.READ, iovec=16, count=1, offset=0)
    assert machine.world.reads == 0
    assert machine.counted() == {"foreign": 1}


@pytest.mark.parametrize("value", [0, 4096, 2**31 - 1, -1, -5, -28, -110, -108])
def test_the_return_value_is_what_qemu_stored(any_machine: Machine, value: int) -> None:
    """Bytes read, 0, or a negative errno, from the object in which QEMU's callback has just stored it."""
    request = any_machine.submit_request()
    for operation in (RbdOperation.READ, RbdOperation.FLUSH):
        any_machine.release(any_machine.call(request, operation), value)
    any_machine.complete(request)
    assert any_machine.records()["return_value"].tolist() == [value, value]


def test_a_call_that_librbd_refused_has_no_return_value(any_machine: Machine) -> None:
    """Released by the thread that submitted it, nothing was stored: first and further calls say so."""
    request = any_machine.submit_request()
    for _ in range(2):
        any_machine.refuse(any_machine.call(request, RbdOperation.READ))
    any_machine.complete(request)
    assert any_machine.records()["return_value"].tolist() == [RETURN_UNKNOWN, RETURN_UNKNOWN]
    assert "return_unreadable" not in any_machine.counted()


def test_an_unreadable_return_value_is_counted(machine: Machine) -> None:
    """The call ends, and the counter tells that its result could not be read."""
    request = machine.submit_request()
    completion = machine.call(request, RbdOperation.READ)
    machine.fail_read(1)
    machine.release(completion, -5)
    machine.complete(request)
    assert machine.world.faults_injected == 1
    assert machine.counted()["return_unreadable"] == machine.counted()["rbd_completed"] == 1


def test_an_unreadable_return_value_is_unknown(machine: Machine) -> None:
    """A result that could not be read is RETURN_UNKNOWN, not a success."""
    request = machine.submit_request()
    completion = machine.call(request, RbdOperation.READ)
    machine.fail_read(1)
    machine.release(completion, -5)
    machine.complete(request)
    assert machine.records()["return_value"].tolist() == [RETURN_UNKNOWN]


def test_a_completion_used_again_at_once_is_another_call(machine: Machine) -> None:
    """The freed completion's address comes back for the next call, which is timed by itself."""
    request = machine.submit_request()
    addresses = set()
    for wait in (5, 7):
        completion = machine.call(request, RbdOperation.READ)
        addresses.add(completion.address)
        machine.now_ns += wait
        machine.release(completion, wait)
    machine.complete(request)
    records = machine.records()
    assert len(addresses) == 1
    assert (records["call_complete_ns"] - records["call_submit_ns"]).tolist() == [5, 7]
    assert records["return_value"].tolist() == [5, 7]
    assert "rbd_end_lost" not in machine.counted()


def test_a_lost_release_is_counted_when_the_completion_comes_again(machine: Machine) -> None:
    """The call whose release was not seen stays without end; the one after it at that address is whole."""
    request = machine.submit_request()
    machine.drop(machine.call(request, RbdOperation.READ))
    machine.now_ns += 50
    completion = machine.call(request, RbdOperation.READ)
    machine.now_ns += 20
    machine.release(completion, 4096)
    machine.complete(request)
    first, second = machine.records()
    assert (first["calls"], first["call_complete_ns"], first["return_value"]) == (2, 0, RETURN_UNKNOWN)
    assert (second["call_complete_ns"], second["return_value"]) == (1_000_070, 4096)
    assert machine.counted()["rbd_end_lost"] == 1
    assert machine.table_sizes() == {"requests": 0, "calls": 0, "held": 0, "expected": 0}


def test_a_release_without_call_is_counted(machine: Machine) -> None:
    """A call begun before the probes were there leaves a count and no record."""
    machine.release(machine.prepare(None, Via.DMA), 0)
    assert machine.counted() == {"rbd_unstarted": 1}
    assert not len(machine.records())


@pytest.mark.parametrize("earlier", [0, 1, 3])
def test_a_call_released_after_its_request_ended_leaves_by_itself(machine: Machine, earlier: int) -> None:
    """First or further, it is a record of its own that still names its request, and is counted."""
    request = machine.submit_request()
    for _ in range(earlier):
        machine.release(machine.call(request, RbdOperation.READ), 0)
    late = machine.call(request, RbdOperation.READ)
    machine.complete(request)
    assert len(machine.records()) == max(1, earlier)
    machine.now_ns += 40
    machine.release(late, 512)
    (record,) = machine.records()
    assert (record["kind"], record["request"], record["submit_ns"]) == (RecordKind.CALL, request.address, 1_000_000)
    assert (record["return_value"], record["link"]) == (512, Link.WALK)
    assert machine.counted()["parent_gone"] == 1


def test_a_late_call_does_not_go_to_the_next_request_at_the_address(machine: Machine) -> None:
    """The address alone is not the parent: the request that has it now keeps its own calls only."""
    before = machine.submit_request(tag=1)
    late = machine.call(before, RbdOperation.READ)
    machine.complete(before)
    machine.now_ns += 10
    request = machine.submit_request(tag=2)
    assert request.address == before.address
    own = machine.call(request, RbdOperation.WRITE)
    machine.release(late, 1)
    machine.release(own, 2)
    machine.complete(request)
    records = machine.records()
    assert records["kind"].tolist() == [RecordKind.REQUEST, RecordKind.CALL, RecordKind.REQUEST]
    assert records["submit_ns"].tolist() == [1_000_000, 1_000_000, 1_000_010]
    assert records["return_value"].tolist() == [RETURN_UNKNOWN, 1, 2]


def test_qemus_own_call_is_a_record_without_parent(machine: Machine) -> None:
    """A call made for no request leaves at its release, with its times, its result and no parent."""
    machine.submit_request()
    completion = machine.call(None, RbdOperation.READ, offset=0, length=512)
    machine.now_ns += 33
    machine.release(completion, 512, thread=SUBMITTER + 7)
    (record,) = machine.records()
    assert (record["kind"], record["link"], record["submit_ns"]) == (RecordKind.CALL, Link.NOT_IN_FLIGHT, 0)
    assert (record["call_complete_ns"] - record["call_submit_ns"], record["return_value"]) == (33, 512)
    names = "scsi_submitted rbd_submitted rbd_completed parent_not_in_flight records"
    assert machine.counted() == dict.fromkeys(names.split(), 1)
