"""
What many spans have in common, serialised once: their name, kind, status, flags and attributes of few values.

A kind is the columns of a request or call that have few values; its bytes are its key.  Guests choose some of them, so
what is remembered is bounded.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from otel_qemu.events import RETURN_UNKNOWN, Ending, RbdOperation
from otel_qemu.export import semconv
from otel_qemu.export.attributes import Values, key_values
from otel_qemu.export.spans.error_type import CHECK_CONDITION, call_error, request_error
from otel_qemu.export.spans.tracestate import FLAGS, ratio, trace_state
from otel_qemu.export.spans.wire import Remembered
from otel_qemu.trace.scsi import OPERATIONS, READS, WRITES, status_name
from otel_qemu.trace.traces import CALL, REQUEST, Join, Table

Row = Mapping[str, int]
"""The columns of one kind, by name."""

_DIRECTIONS = {**dict.fromkeys(READS, "read"), **dict.fromkeys(WRITES, "write")}
_RBD_DIRECTIONS = {RbdOperation.READ: "read", RbdOperation.WRITE: "write"}
_JOINS = {join.value: join.label for join in Join}
_SUCCESS, _FAILURE = Status(), Status(code=Status.STATUS_CODE_ERROR)

_OF_REQUEST = (
    "lun", "operation", "opcode", "ending", "status", "host_status", "retries",
    "sense_key", "asc", "ascq", "incomplete", "block_bytes",
)  # fmt: skip
_OF_CALL = ("operation", "join", "disagrees", "return_value")


class Kinds:
    """
    Kinds of one sort of span.

    Args:
        dtype: the columns that make a kind, without holes.
        make: the serialised `Span` of a kind.
    """

    def __init__(self, dtype: np.dtype[np.void], make: Callable[[Row], bytes]) -> None:
        self._dtype = dtype
        self._names = dtype.names or ()
        self._make = make
        self._made = Remembered(self._span)

    def __len__(self) -> int:
        return len(self._made)

    def column(self, table: Table, **computed: NDArray[Any]) -> list[bytes]:
        """A serialised `Span` with what the kind of each row says, shape (n,); columns that a table lacks are given."""
        keys = np.empty(len(table), self._dtype)
        for name in self._names:
            keys[name] = computed[name] if name in computed else table[name]
        return self._made.column(keys.view(f"V{self._dtype.itemsize}").tolist())

    def _span(self, key: bytes) -> bytes:
        (values,) = np.frombuffer(key, self._dtype).tolist()
        return self._make(dict(zip(self._names, values, strict=True)))


def _request(row: Row) -> bytes:
    name = OPERATIONS[row["operation"]] if row["operation"] < len(OPERATIONS) else OPERATIONS[0]
    values: Values = {
        semconv.SCSI_OPERATION_NAME: name,
        semconv.SCSI_OPCODE: row["opcode"],
        semconv.SCSI_LUN: row["lun"],
    }
    if name in _DIRECTIONS:
        values[semconv.DISK_IO_DIRECTION] = _DIRECTIONS[name]
    if row["block_bytes"]:
        values[semconv.SCSI_BLOCK_SIZE] = row["block_bytes"]
    if row["retries"]:
        values[semconv.SCSI_RETRIES] = row["retries"]
    if row["incomplete"] or row["ending"] == Ending.LOST:
        values[semconv.INCOMPLETE] = True
    return serialised(name, Span.SPAN_KIND_SERVER, values | _ending(row))


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


def _call(row: Row) -> bytes:
    name = semconv.RBD_OPERATIONS.get(row["operation"], "other")
    values: Values = {
        semconv.RBD_OPERATION_NAME: name,
        semconv.SERVICE_PEER_NAME: semconv.CEPH,
        semconv.PEER_SERVICE: semconv.CEPH,
        semconv.JOIN: _JOINS.get(row["join"], semconv.OTHER),
    }
    if row["operation"] in _RBD_DIRECTIONS:
        values[semconv.DISK_IO_DIRECTION] = _RBD_DIRECTIONS[RbdOperation(row["operation"])]
    if row["disagrees"]:
        values[semconv.DISAGREEMENT] = True
    return serialised(f"{semconv.RBD_SPAN_PREFIX}{name}", Span.SPAN_KIND_CLIENT, values | _result(row))


def _result(row: Row) -> Values:
    """What the call returned, if it did, and what is wrong with it."""
    if not row["has_ended"]:
        return {semconv.INCOMPLETE: True}
    values: Values = {}
    if row["return_value"] != RETURN_UNKNOWN:
        values[semconv.RBD_RETURN_VALUE] = row["return_value"]
    return values | _error(call_error(row))


def _error(error: str | None) -> Values:
    return {semconv.ERROR_TYPE: error} if error else {}


def serialised(name: str, kind: "Span.SpanKind.ValueType", values: Values) -> bytes:
    """A span without ids and times."""
    status = _FAILURE if semconv.ERROR_TYPE in values else _SUCCESS
    span = Span(name=name, kind=kind, attributes=key_values(values), status=status, flags=FLAGS)
    return span.SerializeToString()


WAIT = serialised(semconv.BLOCK_WAIT, Span.SPAN_KIND_INTERNAL, {})
REQUESTS = Kinds(np.dtype([(name, REQUEST[name]) for name in _OF_REQUEST]), _request)
CALLS = Kinds(np.dtype([*((name, CALL[name]) for name in _OF_CALL), ("has_ended", "?")]), _call)


def _state(threshold: int) -> bytes:
    return Span(trace_state=trace_state(threshold)).SerializeToString()


def _root_state(threshold: int) -> bytes:
    share = ratio(threshold)
    values: Values = {} if share is None else {semconv.SAMPLING_RATIO: share}
    return Span(trace_state=trace_state(threshold), attributes=key_values(values)).SerializeToString()


STATES = Remembered(_state, most=1024)
"""What spans below a root say of how their trace was sampled, by its threshold: a serialised `Span`."""
ROOT_STATES = Remembered(_root_state, most=1024)
"""The same of a root: who multiplies spans by an attribute looks for it there."""
