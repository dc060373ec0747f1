# SPDX-License-Identifier: Apache-2.0
"""While a layout is not known, requests are only copied, beside the arguments of scsi_req_new."""

from dataclasses import replace

import numpy as np
import pytest

from otel_qemu.probe.calibration import ENOUGH_SAMPLES, EXPECTED, REQUEST_BYTES, SAMPLES, calibrated
from tests.bpf.layouts import QEMU_7_2, QEMU_10_0, UNKNOWN_OFFSET, Layout
from tests.bpf.machine import PID, Machine

UNKNOWN = {"device": UNKNOWN_OFFSET, "tag": UNKNOWN_OFFSET, "sense": UNKNOWN_OFFSET}


def calibrating(layout: Layout = QEMU_7_2, proving: bool = True) -> Machine:
    machine = Machine(layout, assumed=replace(layout, **UNKNOWN))
    machine.trace(PID, replace(layout, **UNKNOWN), proving=proving)
    return machine


def submit(machine: Machine, count: int, first_tag: int = 100) -> None:
    """Submit READs with different places and tags."""
    for tag in range(first_tag, first_tag + count):
        cdb = bytes([0x28, 0, 0, 0, tag // 256, tag % 256, 0, 0, 8, 0])
        request = machine.allocate_request(cdb, tag=tag)
        machine.new(request, cdb, tag=tag)
        machine.enqueue(request)


def found(machine: Machine) -> dict[str, int] | None:
    made, submitted = machine.copy("made")[1], machine.copy("submitted")[1]
    return calibrated(np.frombuffer(made, EXPECTED), np.frombuffer(submitted, np.uint8).reshape(-1, REQUEST_BYTES))


@pytest.mark.parametrize("layout", [QEMU_7_2, QEMU_10_0])
def test_samples_show_the_layout(layout: Layout) -> None:
    """This holds for both layouts; no request is in flight, and each hit is counted once."""
    machine = calibrating(layout)
    submit(machine, ENOUGH_SAMPLES)
    assert found(machine) == {"device": layout.device, "tag": layout.tag, "sense": layout.sense}
    assert machine.counted() == {"scsi_made": ENOUGH_SAMPLES, "scsi_unproven": ENOUGH_SAMPLES}
    assert machine.table_sizes()["requests"] == 0


def test_samples_are_bounded() -> None:
    """Beyond the bound, neither function adds a sample."""
    machine = calibrating()
    submit(machine, SAMPLES)
    before = machine.copy("made"), machine.copy("submitted")
    submit(machine, 10, first_tag=1000)
    assert (machine.copy("made"), machine.copy("submitted")) == before
    assert len(before[0][1]) == SAMPLES * EXPECTED.itemsize
    assert machine.counted()["scsi_unproven"] == SAMPLES + 10


def test_a_request_that_cannot_be_read_is_a_sample_of_nothing() -> None:
    """Its sample stays zero, and shows no layout."""
    machine = calibrating()
    request = machine.allocate_request()
    machine.hole(request.address, 0x190)
    machine.enqueue(request)
    assert machine.copy("submitted")[1] == bytes(REQUEST_BYTES)
    assert machine.counted() == {"scsi_unproven": 1}


def test_without_a_proof_nothing_is_sampled_nor_read() -> None:
    """If the layout is not known and cannot be calibrated, requests are left alone."""
    machine = calibrating(proving=False)
    submit(machine, 3)
    assert machine.counted() == {"scsi_made": 3, "scsi_unproven": 3}
    assert (machine.copy("made"), machine.copy("submitted")) == ((b"", b""), (b"", b""))


def test_sense_data_whose_place_is_not_known_are_not_read() -> None:
    """They are counted as unreadable, and the rest of the request is recorded."""
    machine = Machine(assumed=replace(QEMU_7_2, sense=UNKNOWN_OFFSET))
    request = machine.submit_request()
    reads = machine.world.reads
    machine.complete(request, status=2, sense=bytes.fromhex("7000050000000000000000002400"))
    assert machine.world.reads == reads
    (record,) = machine.records()
    assert (record["status"], record["sense_key"], record["asc"]) == (2, 0, 0)
    assert machine.counted()["sense_unreadable"] == 1
