# SPDX-License-Identifier: Apache-2.0
"""While a layout is not proven, a request is taken only if it matches the arguments of scsi_req_new."""

import struct
from dataclasses import replace

import pytest

from tests.bpf.layouts import QEMU_7_2, Layout
from tests.bpf.machine import DEVICE, PID, READ_10, Machine, Request

WRITE_10 = bytes.fromhex("2a000000080000000800") + bytes(6)


def proving(assumed: Layout = QEMU_7_2) -> Machine:
    machine = Machine()
    machine.trace(PID, assumed, proving=True)
    return machine


def made(machine: Machine, **expected: object) -> Request:
    """Return a READ with tag 7, for which scsi_req_new was called with these or other arguments."""
    request = machine.allocate_request()
    machine.new(request, **expected)  # type: ignore[arg-type]
    return request


def proofs(machine: Machine) -> tuple[int, int]:
    _keys, values = machine.copy("processes")
    proven, refuted = struct.unpack_from("<2I", values, 36)
    return proven, refuted


def test_a_request_that_reads_as_it_was_made_is_taken() -> None:
    """A match is counted as a proof, and the request is in flight."""
    machine = proving()
    request = made(machine)
    machine.enqueue(request)
    machine.complete(request)
    assert machine.counted() == {"scsi_made": 1, "scsi_submitted": 1, "scsi_completed": 1, "records": 1}
    assert proofs(machine) == (1, 0)
    assert machine.table_sizes()["expected"] == 0


@pytest.mark.parametrize("expected", [{"cdb": WRITE_10}, {"tag": 8}, {"lun": 1}, {"device": DEVICE + 8}])
def test_one_that_does_not_is_left_alone(expected: dict[str, object]) -> None:
    """With another CDB, tag, LUN or device it is counted, is never in flight, and has no record."""
    machine = proving()
    request = made(machine, **expected)
    machine.enqueue(request)
    assert machine.counted() == {"scsi_made": 1, "scsi_unproven": 1}
    assert not machine.in_flight(request)
    assert proofs(machine) == (0, 1)


@pytest.mark.parametrize("field", ["device", "tag"])
def test_a_wrong_offset_takes_nothing(field: str) -> None:
    """This holds for each of the offsets that are read at the submit."""
    machine = proving(replace(QEMU_7_2, **{field: getattr(QEMU_7_2, field) + 8}))
    for _ in range(5):
        machine.enqueue(made(machine))
    assert machine.counted() == {"scsi_made": 5, "scsi_unproven": 5}


def test_one_made_before_we_looked_is_left_alone() -> None:
    """Without a call of scsi_req_new there is nothing to match."""
    machine = proving()
    machine.submit_request()
    assert machine.counted() == {"scsi_unproven": 1}


def test_a_retry_needs_no_other_proof() -> None:
    """A request that is submitted again after an error is proven already."""
    machine = proving()
    request = made(machine)
    machine.enqueue(request)
    machine.retry(request)
    machine.enqueue(request)
    assert machine.counted()["scsi_resubmitted"] == 1


def test_what_cannot_be_read_proves_nothing() -> None:
    """If the CDB of scsi_req_new cannot be read, the request is not taken."""
    machine = proving()
    machine.fail_read(1)
    machine.enqueue(made(machine))
    assert machine.counted() == {"scsi_made": 1, "scsi_unproven": 1}


def test_a_proven_process_is_not_asked(machine: Machine) -> None:
    """Neither it nor a process that is not traced adds entries that would fill the table."""
    machine.new(machine.submit_request(READ_10))
    machine.pid += 1
    machine.new(machine.allocate_request())
    assert machine.counted() == {"scsi_submitted": 1, "scsi_made": 1, "foreign": 1}
    assert machine.table_sizes()["expected"] == 0
