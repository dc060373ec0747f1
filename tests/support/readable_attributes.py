# SPDX-License-Identifier: Apache-2.0
"""
The attributes that each kind of span must have, row by row: the reference for the encoder.

Every key and text is written out here, as docs and standards have them (SAM-5 5.3.1, SPC-5 4.4, QEMU's enum
SCSIHostStatus, errno.h).  Nothing of `otel_qemu.export` is imported: a wrong name there differs from the one here.
"""

import errno
from collections.abc import Mapping
from fractions import Fraction

from otel_qemu.trace.names import Disk
from otel_qemu.trace.scsi import OPERATIONS

Row = Mapping[str, int]
Values = dict[str, str | bool | int | float]

COMPLETED, FAILED, CANCELLED, LOST, HUNG = 1, 2, 3, 4, 5
"""``enum ending`` of bpf/events.h."""
PARENT_LOST = 18
"""`trace.traces.Join` of a call whose request's record was lost: it has no span."""

_JOINS = {
    1: "walk",
    2: "walk+range",
    3: "range",
    4: "time",
    16: "internal",
    17: "started_before",
    18: "parent_lost",
    19: "unmatched",
}
_DIRECTIONS = {"READ": "read", "WRITE": "write", "WRITE_AND_VERIFY": "write"}
_CALLS = {1: "aio_read", 2: "aio_write", 3: "aio_discard", 4: "aio_write_zeroes", 5: "aio_flush"}
_STATUSES = {
    0x00: "GOOD",
    0x02: "CHECK_CONDITION",
    0x04: "CONDITION_MET",
    0x08: "BUSY",
    0x18: "RESERVATION_CONFLICT",
    0x28: "TASK_SET_FULL",
    0x30: "ACA_ACTIVE",
    0x40: "TASK_ABORTED",
}
_SENSE_KEYS = [
    "NO_SENSE",
    "RECOVERED_ERROR",
    "NOT_READY",
    "MEDIUM_ERROR",
    "HARDWARE_ERROR",
    "ILLEGAL_REQUEST",
    "UNIT_ATTENTION",
    "DATA_PROTECT",
    "BLANK_CHECK",
    "VENDOR_SPECIFIC",
    "COPY_ABORTED",
    "ABORTED_COMMAND",
    "RESERVED",
    "VOLUME_OVERFLOW",
    "MISCOMPARE",
    "COMPLETED",
]
_HOST_STATUSES = {
    1: "NO_LUN",
    2: "BUSY",
    3: "TIME_OUT",
    4: "BAD_RESPONSE",
    5: "ABORTED",
    7: "ERROR",
    8: "RESET",
    14: "TRANSPORT_DISRUPTED",
    16: "TARGET_FAILURE",
    17: "RESERVATION_ERROR",
    18: "ALLOCATION_FAILURE",
    19: "MEDIUM_ERROR",
}
_UNKNOWN_RETURN = -(2**31)


def of_request(row: Row, disk: Disk) -> Values:
    """Attributes of a SCSI request's span."""
    operation = OPERATIONS[row["operation"]] if row["operation"] < len(OPERATIONS) else "OTHER"
    values: Values = {
        "scsi.operation.name": operation,
        "scsi.opcode": row["opcode"],
        "scsi.lun": row["lun"],
        "scsi.tag": row["tag"],
        "scsi.transfer.size": integer(row["bytes"]),
    }
    if operation in _DIRECTIONS:
        values["disk.io.direction"] = _DIRECTIONS[operation]
    if row["block_bytes"] or row["lba"]:
        values["scsi.lba"] = integer(row["lba"])
    if row["block_bytes"]:
        values["scsi.block.size"] = row["block_bytes"]
    if row["retries"]:
        values["scsi.retries"] = row["retries"]
    return values | of_disk(disk) | _split(row) | _outcome(row) | sampled(row)


def of_call(row: Row, disk: Disk) -> Values:
    """Attributes of a librbd call's span."""
    operation = _CALLS.get(row["operation"], "other")
    values: Values = {
        "ceph.rbd.operation.name": operation,
        "service.peer.name": "ceph",
        "peer.service": "ceph",
        "otel_qemu.join": _JOINS.get(row["join"], "_OTHER"),
    }
    if operation in ("aio_read", "aio_write"):
        values["disk.io.direction"] = operation.removeprefix("aio_")
    if operation != "aio_flush":
        values["ceph.rbd.offset"] = integer(row["offset"])
        values["ceph.rbd.length"] = integer(row["length"])
    image = {"ceph.rbd.pool": disk.pool, "ceph.rbd.image": disk.image}
    return values | of_disk(disk) | _texts(image) | _result(row)


def of_disk(disk: Disk) -> Values:
    """The attributes that name the guest's disk."""
    return _texts({"qemu.disk.alias": disk.alias, "qemu.disk.target": disk.target})


def sampled(row: Row) -> Values:
    """On a root: the probability with which its trace was kept, if it is known and not 1."""
    if row.get("ending") == HUNG or not 0 < row["threshold"] < 2**56:
        return {}
    return {"otel_qemu.sampling.ratio": float(1 - Fraction(row["threshold"], 2**56))}


def integer(value: int) -> int | str:
    """The value, or its decimal digits where OTLP's int64 cannot hold it, as OpenTelemetry's type mapping says."""
    return value if value < 2**63 else str(value)


def _texts(texts: Mapping[str, str | None]) -> Values:
    return {key: _shown(text) for key, text in texts.items() if text}


def _shown(text: str) -> str:
    """At most 255 printable characters; what is cut is cut before and after the escapes are written."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in _cut(text))
    return _cut(shown)


def _cut(text: str) -> str:
    return text if len(text) < 256 else text[:254] + "\u2026"


def _split(row: Row) -> Values:
    if row["ending"] == LOST:
        return {"otel_qemu.incomplete": True}
    values: Values = {
        "qemu.block.wait.duration": row["wait_ns"] / 1e9,
        "ceph.rbd.duration": row["rbd_ns"] / 1e9,
        "qemu.block.completion.duration": row["completion_ns"] / 1e9,
    }
    return {**values, "otel_qemu.incomplete": True} if row["incomplete"] else values


def _outcome(row: Row) -> Values:
    if row["ending"] == COMPLETED:
        return _status(row)
    if row["ending"] == FAILED:
        host = _HOST_STATUSES.get(row["host_status"])
        name = f"SCSI_HOST_{host}" if host else "_OTHER"
        return {"scsi.host_status_code": row["host_status"], "error.type": name}
    return {"error.type": {CANCELLED: "cancelled", LOST: "end_lost", HUNG: "timeout"}.get(row["ending"], "_OTHER")}


def _status(row: Row) -> Values:
    status = row["status"]
    name = _STATUSES.get(status)
    values: Values = {"scsi.status_code": status, "scsi.status": name or f"0x{status:02x}"}
    if name in ("GOOD", "CONDITION_MET"):
        return values
    if name != "CHECK_CONDITION":
        return {**values, "error.type": name or "_OTHER"}
    key = row["sense_key"]
    values |= {"scsi.sense.key": key, "scsi.sense.asc": row["asc"], "scsi.sense.ascq": row["ascq"]}
    return {**values, "error.type": f"CHECK_CONDITION.{_SENSE_KEYS[key] if key < 16 else '_OTHER'}"}


def _result(row: Row) -> Values:
    values: Values = {"otel_qemu.disagreement": True} if row["disagrees"] else {}
    value, ended = row["return_value"], row["complete_ns"] > 0
    if not ended:
        values["otel_qemu.incomplete"] = True
    elif value != _UNKNOWN_RETURN:
        values["ceph.rbd.return_value"] = value
        if value < 0:
            values["error.type"] = errno.errorcode.get(-value, "_OTHER")
    return values
