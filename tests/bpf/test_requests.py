# SPDX-License-Identifier: Apache-2.0
"""SCSI requests: how they begin, how they end, and the fields of their record."""

from typing import Any

import pytest

from otel_qemu.events import RECORD, RETURN_UNKNOWN, Ending, Kept, Link, RbdOperation, RecordKind
from tests.bpf.layouts import QEMU_7_2
from tests.bpf.machine import DEVICE, IMAGE, PID, Machine

WRITE_10 = bytes.fromhex("2a000000080000001000")
FIXED_SENSE = bytes([0x70, 0, 0xE3, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x11, 0x04])
DESCRIPTOR_SENSE = bytes([0x72, 0x05, 0x24, 0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0x99, 0x99])


def test_a_write_is_one_record_with_every_field(any_machine: Machine) -> None:
    """A request with one call leaves as one record, in which every field has its value."""
    machine = any_machine
    request = machine.submit_request(WRITE_10, xfer=8192, tag=0xFEDCBA98, lun=5)
    machine.now_ns += 300
    completion = machine.call(request, RbdOperation.WRITE, offset=0x100000, length=8192)
    machine.now_ns += 4000
    machine.release(completion, return_value=0)
    machine.now_ns += 50
    machine.complete(request, status=0)
    (record,) = machine.records()
    expected = {
        "pid": PID, "kind": RecordKind.REQUEST, "ending": Ending.COMPLETED, "operation": RbdOperation.WRITE,
        "link": Link.WALK, "request": request.address, "submit_ns": 1_000_000, "complete_ns": 1_004_350,
        "device": DEVICE, "cdb": WRITE_10.ljust(16, b"\0"), "transfer_bytes": 8192, "tag": 0xFEDCBA98, "lun": 5,
        "status": 0, "host_status": 0, "sense_key": 0, "asc": 0, "ascq": 0, "retries": 0, "calls": 1,
        "kept": Kept.SAMPLED, "unused": 0, "return_value": 0, "rbd_ns": 4000, "image": IMAGE,
        "call_submit_ns": 1_000_300, "call_complete_ns": 1_004_300, "offset": 0x100000, "length": 8192,
    }  # fmt: skip
    found = {name: bytes(record[name]) if name == "cdb" else int(record[name]) for name in RECORD.names or ()}
    assert found == expected
    names = "scsi_submitted scsi_completed rbd_submitted rbd_completed parent_found records"
    assert machine.counted() == dict.fromkeys(names.split(), 1)


def test_a_request_without_call_has_no_rbd_half(machine: Machine) -> None:
    """INQUIRY and flushes of nothing dirty make no call: operation, times and union are 0."""
    request = machine.submit_request(b"\x12\0\0\0\x24\0", xfer=36)
    machine.complete(request)
    (record,) = machine.records()
    assert (record["calls"], record["operation"], record["link"], record["rbd_ns"]) == (0, 0, Link.NONE, 0)
    assert (record["call_submit_ns"], record["call_complete_ns"], record["image"]) == (0, 0, 0)


def test_a_record_wakes_nobody(machine: Machine) -> None:
    """The reader comes on a timer: requests, further calls and calls without parent are submitted with no wake-up."""
    request = machine.submit_request()
    calls = [machine.call(request, RbdOperation.READ) for _ in range(3)] + [machine.call(None, RbdOperation.READ)]
    for call in calls:
        machine.release(call)
    machine.complete(request)
    assert len(machine.records()) == 4
    assert machine.wakeups == 0


@pytest.mark.parametrize("host_status", [0x01, 0x07, 0x0C])
def test_a_failed_request_says_what_the_host_adapter_said(machine: Machine, host_status: int) -> None:
    """scsi_req_complete_failed ends a request with its host status and no SAM status."""
    machine.fail(machine.submit_request(), host_status)
    (record,) = machine.records()
    assert (record["ending"], record["host_status"], record["status"]) == (Ending.FAILED, host_status, 0)


def test_a_cancelled_request_ends_with_its_call(machine: Machine) -> None:
    """scsi_req_cancel_complete ends a request like any other end, with the call that ran to its end before."""
    request = machine.submit_request()
    completion = machine.call(request, RbdOperation.READ)
    machine.now_ns += 70
    machine.release(completion, 4096)
    machine.cancel(request)
    (record,) = machine.records()
    assert (record["ending"], record["rbd_ns"], record["return_value"]) == (Ending.CANCELLED, 70, 4096)
    assert machine.counted()["scsi_completed"] == 1


@pytest.mark.parametrize("first", [0x70, 0x71, 0xF0])
def test_fixed_sense_is_read(any_machine: Machine, first: int) -> None:
    """CHECK CONDITION with sense 70h or 71h, valid bit or not: key in byte 2, below three flags; codes at 12 and 13."""
    any_machine.complete(any_machine.submit_request(), 2, bytes([first]) + FIXED_SENSE[1:])
    (record,) = any_machine.records()
    assert [int(record[name]) for name in ("status", "sense_key", "asc", "ascq")] == [2, 3, 0x11, 0x04]


@pytest.mark.parametrize("first", [0x72, 0x73])
def test_descriptor_sense_is_read(any_machine: Machine, first: int) -> None:
    """CHECK CONDITION with sense 72h or 73h: key, code and qualifier at bytes 1 to 3."""
    any_machine.complete(any_machine.submit_request(), 2, bytes([first]) + DESCRIPTOR_SENSE[1:])
    (record,) = any_machine.records()
    assert [int(record[name]) for name in ("status", "sense_key", "asc", "ascq")] == [2, 5, 0x24, 0x01]


def test_sense_is_not_read_for_another_status(machine: Machine) -> None:
    """BUSY and the like have no sense: stale bytes in the buffer are not reported."""
    machine.complete(machine.submit_request(), 8, FIXED_SENSE)
    (record,) = machine.records()
    assert [int(record[name]) for name in ("status", "sense_key", "asc", "ascq")] == [8, 0, 0, 0]


def test_unreadable_sense_leaves_the_ending(machine: Machine) -> None:
    """The request ends with its status, and no sense, when the sense buffer cannot be read."""
    request = machine.submit_request()
    machine.fail_read(1)
    machine.complete(request, 2, FIXED_SENSE)
    (record,) = machine.records()
    assert machine.world.faults_injected == 1
    assert [int(record[name]) for name in ("status", "sense_key", "asc", "ascq")] == [2, 0, 0, 0]


def test_an_address_used_again_at_once_is_another_request(machine: Machine) -> None:
    """malloc gives the freed address back: each of three requests there has its own record."""
    requests = []
    for tag in (1, 2, 3):
        requests.append(machine.submit_request(tag=tag))
        completion = machine.call(requests[-1], RbdOperation.READ)
        machine.release(completion, 4096)
        machine.complete(requests[-1])
    assert len({request.address for request in requests}) == 1
    records = machine.records()
    assert [(int(record["tag"]), int(record["calls"])) for record in records] == [(1, 1), (2, 1), (3, 1)]
    assert "scsi_end_lost" not in machine.counted()


def test_a_lost_end_is_closed_when_the_address_is_submitted_again(machine: Machine) -> None:
    """The request whose end was not seen leaves as ENDING_LOST, at the time of the next submit, and is counted."""
    lost = machine.submit_request(tag=1)
    completion = machine.call(lost, RbdOperation.READ)
    machine.forget(lost)
    machine.now_ns += 900
    request = machine.submit_request(tag=2)
    assert request.address == lost.address
    machine.release(completion, 4096)
    machine.complete(request)
    first, late, second = machine.records()
    assert (first["ending"], first["tag"], first["complete_ns"]) == (Ending.LOST, 1, 1_000_900)
    assert (late["kind"], late["submit_ns"]) == (RecordKind.CALL, first["submit_ns"])
    assert (second["ending"], second["tag"], second["calls"]) == (Ending.COMPLETED, 2, 0)
    assert machine.counted()["scsi_end_lost"] == machine.counted()["parent_gone"] == 1


def test_a_request_goes_on_when_it_is_enqueued_again_after_a_retry(machine: Machine) -> None:
    """werror=stop, then cont, of a flush: the same request, its first submit, both calls, one retry."""
    request = machine.submit_request(b"\x35" + bytes(9), xfer=0)
    machine.release(machine.call(request, RbdOperation.FLUSH), -28)
    machine.retry(request)
    machine.now_ns += 5_000
    machine.enqueue(request)
    machine.release(machine.call(request, RbdOperation.FLUSH), 0)
    machine.complete(request)
    record, further = machine.records()
    assert (record["submit_ns"], record["retries"], record["calls"]) == (1_000_000, 1, 2)
    assert (record["ending"], record["return_value"], further["return_value"]) == (Ending.COMPLETED, -28, 0)
    assert machine.counted()["scsi_retried"] == machine.counted()["scsi_submitted"] == 1


def test_a_request_goes_on_after_a_retry_without_another_submit(machine: Machine) -> None:
    """werror=stop, then cont, of a write: it is continued, not enqueued, and ends like any other."""
    request = machine.submit_request(WRITE_10)
    machine.release(machine.call(request, RbdOperation.WRITE), -5)
    machine.retry(request)
    machine.release(machine.call(request, RbdOperation.WRITE), 0)
    machine.complete(request)
    record, _ = machine.records()
    assert (record["ending"], record["retries"], record["calls"]) == (Ending.COMPLETED, 1, 2)


def test_a_second_enqueue_after_one_retry_is_a_lost_end(machine: Machine) -> None:
    """A retry excuses one more submit, not two."""
    request = machine.submit_request()
    machine.retry(request)
    machine.enqueue(request)
    machine.enqueue(request)
    machine.complete(request)
    assert [int(record["ending"]) for record in machine.records()] == [Ending.LOST, Ending.COMPLETED]


def test_a_retry_that_no_probe_has_seen(machine: Machine) -> None:
    """scsi_req_retry was inlined: the same command of the same tag, after a call that failed, is the same request."""
    request = machine.submit_request(b"\x35" + bytes(9), xfer=0)
    machine.release(machine.call(request, RbdOperation.FLUSH), -28)
    machine.enqueue(request)
    machine.release(machine.call(request, RbdOperation.FLUSH), 0)
    machine.complete(request)
    record, _further = machine.records()
    assert (record["ending"], record["retries"], record["calls"]) == (Ending.COMPLETED, 1, 2)
    assert machine.counted()["scsi_resubmitted"] == machine.counted()["scsi_submitted"] == 1


@pytest.mark.parametrize(
    ("result", "again"),
    [(0, {}), (-28, {"tag": 8}), (-28, {"lun": 1}), (-28, {"cdb": b"\x35" + bytes(14) + b"\x01"})],
)
def test_another_request_at_the_same_address_is_no_retry(machine: Machine, result: int, again: dict[str, Any]) -> None:
    """The call went well, or the command, its tag or its LUN is another: the end of the first was lost."""
    request = machine.submit_request(b"\x35" + bytes(9), xfer=0)
    machine.release(machine.call(request, RbdOperation.FLUSH), result)
    machine.forget(request)
    machine.enqueue(machine.allocate_request(**{"cdb": b"\x35" + bytes(9), "xfer": 0, **again}))
    assert machine.counted()["scsi_end_lost"] == 1


@pytest.mark.parametrize("ending", [Ending.COMPLETED, Ending.FAILED, Ending.CANCELLED])
def test_an_end_without_submit_is_a_record_with_submit_0(machine: Machine, ending: Ending) -> None:
    """A request begun before the probes were there leaves its end, and how it ended, and is counted apart."""
    request = machine.allocate_request()
    if ending == Ending.COMPLETED:
        machine.complete(request)
    elif ending == Ending.FAILED:
        machine.fail(request, 7)
    else:
        machine.cancel(request)
    (record,) = machine.records()
    assert (record["kind"], record["ending"], record["submit_ns"]) == (RecordKind.REQUEST, ending, 0)
    assert (record["request"], record["complete_ns"], record["calls"]) == (request.address, 1_000_000, 0)
    assert machine.counted() == {"scsi_unstarted": 1, "records": 1}


def test_a_retry_without_submit_is_counted(machine: Machine) -> None:
    """scsi_req_retry of a request that is not in flight is counted like any other, and leaves no record."""
    machine.retry(machine.allocate_request())
    assert machine.counted() == {"scsi_retried": 1}


@pytest.mark.parametrize("number", [1, 2])
def test_a_request_that_cannot_be_read_is_not_in_flight(any_machine: Machine, number: int) -> None:
    """Each of the two reads at submit, failing, counts the request as unreadable and keeps nothing of it."""
    request = any_machine.allocate_request()
    any_machine.fail_read(number)
    any_machine.enqueue(request)
    assert any_machine.world.faults_injected == 1
    assert any_machine.counted() == {"scsi_unreadable": 1}
    assert any_machine.table_sizes()["requests"] == 0


def test_a_foreign_process_leaves_counts_and_nothing_else(machine: Machine) -> None:
    """Every hit in a process that is not traced is counted as foreign, makes no record and fills no table."""
    machine.pid += 1
    request = machine.submit_request()
    for operation in RbdOperation:
        machine.release(machine.call(request, operation), 0)
    machine.retry(request)
    machine.complete(request)
    machine.fail(machine.submit_request(), 1)
    machine.cancel(machine.submit_request())
    assert machine.counted() == {"foreign": machine.hits}
    assert not len(machine.records())
    assert not any(machine.table_sizes().values())


def test_an_address_in_two_processes_is_two_requests(machine: Machine) -> None:
    """The process is part of the key: two guests with equal pointers have their own requests and calls."""
    request = machine.submit_request(tag=1)
    machine.pid += 1
    machine.trace(machine.pid, QEMU_7_2)
    machine.memory.write(request.address + QEMU_7_2.tag, "I", 2)
    machine.enqueue(request)
    machine.release(machine.call(request, RbdOperation.READ), 4096)
    machine.complete(request)
    machine.pid -= 1
    machine.hit("scsi_req_complete", request.address, 0)
    found = [(int(record["pid"]), int(record["tag"]), int(record["calls"])) for record in machine.records()]
    assert found == [(PID + 1, 2, 1), (PID, 1, 0)]


def test_a_call_in_flight_when_its_request_ends_has_no_result_in_the_record(machine: Machine) -> None:
    """The record then says what is known: submitted, not released, return value unknown, RBD until the end."""
    request = machine.submit_request()
    machine.now_ns += 10
    machine.call(request, RbdOperation.READ)
    machine.now_ns += 25
    machine.cancel(request)
    (record,) = machine.records()
    assert (record["call_complete_ns"], record["return_value"], record["rbd_ns"]) == (0, RETURN_UNKNOWN, 25)
