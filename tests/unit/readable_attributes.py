"""
The attributes that each kind of span ought to have, row by row: the reference that the encoder is held to.

Written without the encoder's columns, caches and bytes; what it shares with it are names, and the texts of errors.
"""

from collections.abc import Mapping
from fractions import Fraction

from otel_qemu.events import RETURN_UNKNOWN, Ending, RbdOperation
from otel_qemu.export import semconv
from otel_qemu.export.spans.error_type import CHECK_CONDITION, call_error, request_error
from otel_qemu.export.text import printable
from otel_qemu.trace.names import Disk
from otel_qemu.trace.scsi import OPERATIONS, READS, WRITES, status_name
from otel_qemu.trace.traces import Join

Row = Mapping[str, int]
Values = dict[str, str | bool | int | float]

_DIRECTIONS = {**dict.fromkeys(READS, "read"), **dict.fromkeys(WRITES, "write")}
_RBD_DIRECTIONS = {RbdOperation.READ: "read", RbdOperation.WRITE: "write"}
_JOINS = {join.value: join.label for join in Join}


def of_request(row: Row, disk: Disk) -> Values:
    """Attributes of a SCSI request's span."""
    operation = OPERATIONS[row["operation"]] if row["operation"] < len(OPERATIONS) else "OTHER"
    values: Values = {
        semconv.SCSI_OPERATION_NAME: operation,
        semconv.SCSI_OPCODE: row["opcode"],
        semconv.SCSI_LUN: row["lun"],
        semconv.SCSI_TAG: row["tag"],
        semconv.SCSI_TRANSFER_SIZE: integer(row["bytes"]),
    }
    if operation in _DIRECTIONS:
        values[semconv.DISK_IO_DIRECTION] = _DIRECTIONS[operation]
    if row["block_bytes"] or row["lba"]:
        values[semconv.SCSI_LBA] = integer(row["lba"])
    if row["block_bytes"]:
        values[semconv.SCSI_BLOCK_SIZE] = row["block_bytes"]
    if row["retries"]:
        values[semconv.SCSI_RETRIES] = row["retries"]
    return values | of_disk(disk) | _times(row) | _ending(row) | sampled(row)


def of_call(row: Row, disk: Disk) -> Values:
    """Attributes of a librbd call's span."""
    operation = row["operation"]
    values: Values = {
        semconv.RBD_OPERATION_NAME: semconv.RBD_OPERATIONS.get(operation, "other"),
        semconv.SERVICE_PEER_NAME: "ceph",
        semconv.PEER_SERVICE: "ceph",
        semconv.JOIN: _JOINS.get(row["join"], "_OTHER"),
    }
    if operation in _RBD_DIRECTIONS:
        values[semconv.DISK_IO_DIRECTION] = _RBD_DIRECTIONS[RbdOperation(operation)]
    if operation != RbdOperation.FLUSH:
        values[semconv.RBD_OFFSET] = integer(row["offset"])
        values[semconv.RBD_LENGTH] = integer(row["length"])
    return values | of_disk(disk) | _texts({semconv.RBD_POOL: disk.pool, semconv.RBD_IMAGE: disk.image}) | _result(row)


def of_disk(disk: Disk) -> Values:
    """Which of the guest's disks it is."""
    return _texts({semconv.DISK_ALIAS: disk.alias, semconv.DISK_TARGET: disk.target})


def sampled(row: Row) -> Values:
    """Of a root: with which probability it was kept, if that is known and not 1."""
    if row.get("ending") == Ending.HUNG or not 0 < row["threshold"] < 2**56:
        return {}
    return {semconv.SAMPLING_RATIO: float(1 - Fraction(row["threshold"], 2**56))}


def integer(value: int) -> int | str:
    """The value, or its decimal digits where OTLP's int64 cannot hold it, as OpenTelemetry's type mapping says."""
    return value if value < 2**63 else str(value)


def _texts(texts: dict[str, str | None]) -> Values:
    return {key: printable(text) for key, text in texts.items() if text}


def _times(row: Row) -> Values:
    if row["ending"] == Ending.LOST:
        return {semconv.INCOMPLETE: True}
    values: Values = {
        semconv.BLOCK_WAIT_DURATION: row["wait_ns"] / 1e9,
        semconv.RBD_DURATION: row["rbd_ns"] / 1e9,
        semconv.COMPLETION_DURATION: row["completion_ns"] / 1e9,
    }
    return values | ({semconv.INCOMPLETE: True} if row["incomplete"] else {})


def _ending(row: Row) -> Values:
    values: Values = {}
    if row["ending"] == Ending.COMPLETED:
        values = {semconv.SCSI_STATUS_CODE: row["status"], semconv.SCSI_STATUS: status_name(row["status"])}
        if row["status"] == CHECK_CONDITION:
            values |= {
                semconv.SCSI_SENSE_KEY: row["sense_key"],
                semconv.SCSI_SENSE_ASC: row["asc"],
                semconv.SCSI_SENSE_ASCQ: row["ascq"],
            }
    elif row["ending"] == Ending.FAILED:
        values = {semconv.SCSI_HOST_STATUS_CODE: row["host_status"]}
    return values | _error(request_error(row))


def _result(row: Row) -> Values:
    values: Values = {semconv.DISAGREEMENT: True} if row["disagrees"] else {}
    if not row["complete_ns"]:
        return values | {semconv.INCOMPLETE: True}
    if row["return_value"] != RETURN_UNKNOWN:
        values[semconv.RBD_RETURN_VALUE] = row["return_value"]
    return values | _error(call_error(row))


def _error(error: str | None) -> Values:
    return {semconv.ERROR_TYPE: error} if error else {}
