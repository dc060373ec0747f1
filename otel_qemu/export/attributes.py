"""The attributes of each kind of span: names from `semconv`, plain values, and no key where nothing is known."""

from otel_qemu.events import RETURN_UNKNOWN, Ending, RbdOperation
from otel_qemu.export import semconv
from otel_qemu.export.text import integer, printable
from otel_qemu.export.verdict import CHECK_CONDITION, call_error, request_error
from otel_qemu.export.waits import Row
from otel_qemu.trace.names import Disk
from otel_qemu.trace.scsi import OPERATIONS, READS, WRITES, status_name
from otel_qemu.trace.traces import Join

Values = dict[str, str | bool | int | float]

_DIRECTIONS = {**dict.fromkeys(READS, "read"), **dict.fromkeys(WRITES, "write")}
_RBD_DIRECTIONS = {RbdOperation.READ: "read", RbdOperation.WRITE: "write"}
_JOINS = {join.value: join.label for join in Join}
_NS_A_SECOND = 1e9


def of_request(row: Row, disk: Disk) -> Values:
    """Attributes of a SCSI request's span."""
    operation = OPERATIONS[row["operation"]] if row["operation"] < len(OPERATIONS) else OPERATIONS[0]
    values: Values = {
        semconv.SCSI_OPERATION_NAME: operation,
        semconv.SCSI_OPCODE: row["opcode"],
        semconv.SCSI_LUN: row["lun"],
        semconv.SCSI_TAG: row["tag"],
        semconv.SCSI_TRANSFER_SIZE: integer(row["bytes"]),
    }
    if operation in _DIRECTIONS:
        values[semconv.DISK_IO_DIRECTION] = _DIRECTIONS[operation]
    # A command that addresses no blocks has neither; one that does has its block size, or an address.
    if row["block_bytes"] or row["lba"]:
        values[semconv.SCSI_LBA] = integer(row["lba"])
    if row["block_bytes"]:
        values[semconv.SCSI_BLOCK_SIZE] = row["block_bytes"]
    if row["retries"]:
        values[semconv.SCSI_RETRIES] = row["retries"]
    return values | of_disk(disk) | _times(row) | _ending(row)


def of_call(row: Row, disk: Disk) -> Values:
    """Attributes of a librbd call's span."""
    operation = row["operation"]
    values: Values = {
        semconv.RBD_OPERATION_NAME: semconv.RBD_OPERATIONS.get(operation, "other"),
        semconv.SERVICE_PEER_NAME: semconv.CEPH,
        semconv.PEER_SERVICE: semconv.CEPH,
        semconv.JOIN: _JOINS.get(row["join"], semconv.OTHER),
    }
    if operation in _RBD_DIRECTIONS:
        values[semconv.DISK_IO_DIRECTION] = _RBD_DIRECTIONS[RbdOperation(operation)]
    if operation != RbdOperation.FLUSH:
        values[semconv.RBD_OFFSET] = integer(row["offset"])
        values[semconv.RBD_LENGTH] = integer(row["length"])
    return values | of_disk(disk) | _image(disk) | _result(row)


def of_disk(disk: Disk) -> Values:
    """Which of the guest's disks it is."""
    return _texts({semconv.DISK_ALIAS: disk.alias, semconv.DISK_TARGET: disk.target})


def _image(disk: Disk) -> Values:
    return _texts({semconv.RBD_POOL: disk.pool, semconv.RBD_IMAGE: disk.image})


def _texts(texts: dict[str, str | None]) -> Values:
    return {key: printable(text) for key, text in texts.items() if text}


def _times(row: Row) -> Values:
    """Where the time went, in seconds; nothing for a request whose end was not seen."""
    if row["ending"] == Ending.LOST:
        return {semconv.INCOMPLETE: True}
    values: Values = {
        semconv.BLOCK_WAIT_DURATION: row["wait_ns"] / _NS_A_SECOND,
        semconv.RBD_DURATION: row["rbd_ns"] / _NS_A_SECOND,
        semconv.COMPLETION_DURATION: row["completion_ns"] / _NS_A_SECOND,
    }
    return values | ({semconv.INCOMPLETE: True} if row["incomplete"] else {})


def _ending(row: Row) -> Values:
    """Status, sense data and error, each only where the request has one."""
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
    """What the call returned, if it did, and what is wrong with it."""
    values: Values = {semconv.DISAGREEMENT: True} if row["disagrees"] else {}
    if not row["complete_ns"]:
        return values | {semconv.INCOMPLETE: True}
    if row["return_value"] != RETURN_UNKNOWN:
        values[semconv.RBD_RETURN_VALUE] = row["return_value"]
    return values | _error(call_error(row))


def _error(error: str | None) -> Values:
    return {semconv.ERROR_TYPE: error} if error else {}
