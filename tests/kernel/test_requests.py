# SPDX-License-Identifier: Apache-2.0
"""On every layout, each way of a request adds to the right counters and gives the right records."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from otel_qemu.events import RETURN_UNKNOWN, Ending, Link, RbdOperation, RecordKind
from otel_qemu.probe.device_alias import device_alias
from tests.kernel.fake.build import QEMU_5_2, Variant
from tests.kernel.fake_qemu import DEVICE_ALIAS, LUN, FakeQemu
from tests.kernel.tracing import Tracing, hits

READ_10, WRITE_10, SYNCHRONIZE_CACHE, UNMAP, WRITE_SAME_16, INQUIRY = 0x28, 0x2A, 0x35, 0x42, 0x93, 0x12
MIB = 1 << 20


@dataclass(frozen=True)
class Case:
    """A command, the number of librbd calls of one of its requests, and the fields of its record."""

    command: str
    count: int
    calls: int
    fields: dict[str, int]
    counters: dict[str, int] = field(default_factory=dict)
    further_hits: int = 0


_READ = {"opcode": READ_10, "operation": RbdOperation.READ}
_WRITE = {"opcode": WRITE_10, "operation": RbdOperation.WRITE, "return_value": 0}
_FLUSH = {"opcode": SYNCHRONIZE_CACHE, "operation": RbdOperation.FLUSH, "length": 0, "transfer_bytes": 0}
_IO_ERROR = {"status": 2, "sense_key": 0x0B, "asc": 0x00, "ascq": 0x06, "length": 4096}
_FAILED = {"ending": Ending.FAILED, "host_status": 7, "return_value": -5, "length": 4096}


def sized(size_bytes: int) -> dict[str, int]:
    return {"transfer_bytes": size_bytes, "length": size_bytes}


CASES = (
    Case("read 211 4096 16", 211, 1, _READ | sized(4096) | {"return_value": 4096}),
    Case("read 5 4194304", 5, 1, _READ | sized(4 * MIB) | {"return_value": 4 * MIB}),
    Case("write 211 5120 16", 211, 1, _WRITE | sized(5120)),
    Case("flat-read 23 65536", 23, 1, _READ | sized(65536) | {"return_value": 65536}),
    Case("flat-write 23 512", 23, 1, _WRITE | sized(512)),
    Case("fua 23", 23, 2, _WRITE | sized(4096)),
    Case("flush 23", 23, 1, _FLUSH | {"return_value": 0}),
    Case("unmap 23 5", 23, 5,
         {"opcode": UNMAP, "operation": RbdOperation.DISCARD, "transfer_bytes": 8 + 5 * 16, "length": 65536}),
    Case("unmap 3 255", 3, 255,
         {"opcode": UNMAP, "operation": RbdOperation.DISCARD, "transfer_bytes": 8 + 255 * 16, "length": 65536}),
    Case("zero 23", 23, 1,
         {"opcode": WRITE_SAME_16, "operation": RbdOperation.WRITE_ZEROES, "transfer_bytes": 512, "length": MIB}),
    Case("inquiry 23", 23, 0, {"opcode": INQUIRY, "operation": 0, "link": Link.NONE, "image": 0}),
    Case("fail 23", 23, 1, _READ | _FAILED),
    Case("check-condition 23", 23, 1, _READ | _IO_ERROR | {"return_value": -5}),
    Case("early-fail 23", 23, 1, _WRITE | _IO_ERROR | {"return_value": RETURN_UNKNOWN}),
    Case("cancel 23", 23, 1, _READ | sized(4096) | {"ending": Ending.CANCELLED}),
    Case("retry 23", 23, 2, _FLUSH | {"retries": 1, "return_value": -28},
         {"scsi_retried": 23, "scsi_resubmitted": 23}, further_hits=46),
    Case("retry-data 23", 23, 2, _WRITE | sized(4096) | {"retries": 1, "return_value": -28},
         {"scsi_retried": 23}, further_hits=23),
)  # fmt: skip


def expected_fields(case: Case, variant: Variant) -> dict[str, int]:
    """Return the fields that every record has unless the case says otherwise."""
    usual = {
        "kind": RecordKind.REQUEST, "ending": Ending.COMPLETED, "link": Link.WALK, "lun": LUN, "status": 0,
        "host_status": 0, "sense_key": 0, "asc": 0, "ascq": 0, "retries": 0, "calls": case.calls,
    }  # fmt: skip
    special = case.fields
    if variant is QEMU_5_2 and special.get("ending") == Ending.FAILED:  # it has no scsi_req_complete_failed
        special = _READ | _IO_ERROR | {"return_value": -5}
    return usual | special


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.command.replace(" ", "_"))
def test_each_way_of_a_request_is_counted_and_recorded(
    case: Case, variant: Variant, shared_qemu: FakeQemu, tracing: Tracing
) -> None:
    """The counters equal the requests and calls that were made, and every field of every record is right."""
    answer = shared_qemu.command(case.command)
    total = case.count * case.calls
    assert (answer.requests, answer.calls) == (case.count, total)
    expected = {"scsi_submitted": case.count, "scsi_completed": case.count, "records": max(case.count, total)}
    if case.calls:
        expected |= dict.fromkeys(("rbd_submitted", "rbd_completed", "parent_found"), total)
    counted = tracing.counted()
    assert counted == expected | case.counters
    assert hits(counted) == 2 * case.count + 2 * total + case.further_hits

    records = tracing.records()
    requests = records[records["kind"] == RecordKind.REQUEST]
    fields = expected_fields(case, variant)
    found = {name: set(requests[name].tolist()) for name in fields if name != "opcode"}
    found["opcode"] = set(requests["cdb"][:, 0].tolist())
    assert found == {name: {int(value)} for name, value in fields.items()}
    assert len(requests) == case.count
    assert len(records) - len(requests) == max(case.count * (case.calls - 1), 0)


def test_times_and_names_are_told_apart(shared_qemu: FakeQemu, tracing: Tracing) -> None:
    """Times are in the order of events, tags are the guest's own, offset and LBA agree, and the disk has its name."""
    shared_qemu.command("read 211 4096 32")
    records = tracing.records()
    for earlier, later in (("submit_ns", "call_submit_ns"), ("call_submit_ns", "call_complete_ns"),
                           ("call_complete_ns", "complete_ns")):  # fmt: skip
        assert (records[earlier] < records[later]).all()
    assert (records["rbd_ns"] == records["call_complete_ns"] - records["call_submit_ns"]).all()
    assert len(set(records["tag"].tolist())) == 211
    lba = records["cdb"][:, 2:6].copy().view(">u4")[:, 0].astype("u8")
    assert (lba * 512 == records["offset"]).all()
    assert set(records["pid"].tolist()) == {shared_qemu.pid}
    (device,) = set(records["device"].tolist())
    assert device_alias(shared_qemu.pid, device) == DEVICE_ALIAS


def test_calls_of_one_request_lie_one_after_another(shared_qemu: FakeQemu, tracing: Tracing) -> None:
    """Further calls name their request and follow it in the ring, and their times add up to its rbd time."""
    shared_qemu.command("unmap 23 5")
    records = tracing.records()
    for request, *calls in np.split(records, np.flatnonzero(records["kind"] == RecordKind.REQUEST)[1:]):
        assert [call["request"] for call in calls] == [request["request"]] * 4
        assert [call["submit_ns"] for call in calls] == [request["submit_ns"]] * 4
        ends = [request["call_complete_ns"], *(call["call_complete_ns"] for call in calls)]
        starts = [request["call_submit_ns"], *(call["call_submit_ns"] for call in calls)]
        assert starts == sorted(starts)
        assert request["rbd_ns"] == sum(int(end) - int(start) for start, end in zip(starts, ends, strict=True))
        assert {call["return_value"] for call in calls} == {0}


def test_a_block_job_has_no_parent(shared_qemu: FakeQemu, tracing: Tracing) -> None:
    """A call without SCSI request is one record that says its walk ended at none."""
    answer = shared_qemu.command("orphan 211")
    assert (answer.requests, answer.calls) == (0, 211)
    names = "rbd_submitted rbd_completed parent_not_in_flight records"
    assert tracing.counted() == dict.fromkeys(names.split(), 211)
    records = tracing.records()
    assert set(records["link"].tolist()) == {Link.NOT_IN_FLIGHT}
    assert set(records["kind"].tolist()) == {RecordKind.CALL}
    assert set(records["length"].tolist()) == {65536}


def test_what_is_held_is_in_flight(shared_qemu: FakeQemu, tracing: Tracing) -> None:
    """While librbd holds its calls, the requests are in flight with their submit times, and no record is written."""
    shared_qemu.command("hold")
    shared_qemu.command("read 211 4096")
    in_flight = tracing.tracer._program.in_flight()
    assert (len(in_flight), len(tracing.records())) == (211, 0)
    assert tracing.map_entries() == {"processes": 1, "requests": 211, "calls": 211, "held": 0}
    shared_qemu.command("release-held")
    assert set(in_flight["submit_ns"].tolist()) == set(tracing.records()["submit_ns"].tolist())
    assert tracing.map_entries() == {"processes": 1, "requests": 0, "calls": 0, "held": 0}
