# SPDX-License-Identifier: Apache-2.0
"""
Templates of spans: parts that many spans share, serialised once: name, kind, status, flags, attributes of few values.

A template's key is the bytes of those columns of a request or call that have few values.  Guests choose some of them,
so the number of templates is bounded.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from otel_qemu.events import RETURN_UNKNOWN, Ending
from otel_qemu.export import semconv
from otel_qemu.export.attributes import Values, key_values
from otel_qemu.export.spans.error_type import CHECK_CONDITION, call_error, request_error
from otel_qemu.export.spans.tracestate import FLAGS, trace_state
from otel_qemu.export.spans.wire import BytesCache
from otel_qemu.trace.sample import ALL
from otel_qemu.trace.scsi import OPERATIONS, READS, WRITES, status_name
from otel_qemu.trace.traces import CALL, REQUEST, Join, Table

Row = Mapping[str, int]
"""The columns of one key, by name."""

_DIRECTIONS = {**dict.fromkeys(READS, "read"), **dict.fromkeys(WRITES, "write")}
_JOINS = {join.value: join.label for join in Join}
_SUCCESS, _FAILURE = Status(), Status(code=Status.STATUS_CODE_ERROR)

_OF_REQUEST = (
    "lun", "operation", "opcode", "ending", "status", "host_status", "retries",
    "sense_key", "asc", "ascq", "incomplete", "block_bytes",
)  # fmt: skip
_OF_CALL = ("operation", "join", "disagrees", "return_value")


class SpanTemplates:
    """
    Templates of one sort of span.

    Args:
        dtype: the columns that make a key, without holes.
        make: the serialised `Span` of a key.
    """

    def __init__(self, dtype: np.dtype[np.void], make: Callable[[Row], bytes]) -> None:
        self._dtype = dtype
        self._names = dtype.names or ()
        self._make = make
        self._made = BytesCache(self._span)

    def __len__(self) -> int:
        return len(self._made)

    def column(self, table: Table, **computed: NDArray[Any]) -> list[bytes]:
        """
        The template of each row, a serialised `Span`, shape (n,).

        Args:
            table: n rows.
            computed: columns of the key that the table lacks.
        """
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
    if row["operation"] in semconv.RBD_DIRECTIONS:
        values[semconv.DISK_IO_DIRECTION] = semconv.RBD_DIRECTIONS[row["operation"]]
    if row["disagrees"]:
        values[semconv.DISAGREEMENT] = True
    return serialised(f"{semconv.RBD_SPAN_PREFIX}{name}", Span.SPAN_KIND_CLIENT, values | _result(row))


def _result(row: Row) -> Values:
    """Return value and error of a call that has ended."""
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
REQUESTS = SpanTemplates(np.dtype([(name, REQUEST[name]) for name in _OF_REQUEST]), _request)
CALLS = SpanTemplates(np.dtype([*((name, CALL[name]) for name in _OF_CALL), ("has_ended", "?")]), _call)


def _state(threshold: int) -> bytes:
    return Span(trace_state=trace_state(threshold)).SerializeToString()


def _root_state(threshold: int) -> bytes:
    values: Values = {semconv.SAMPLING_RATIO: (ALL - threshold) / ALL} if 0 < threshold < ALL else {}
    return Span(trace_state=trace_state(threshold), attributes=key_values(values)).SerializeToString()


STATES = BytesCache(_state, most=1024)
"""The trace state of spans below a root, by the threshold that their trace was sampled with: a serialised `Span`."""
ROOT_STATES = BytesCache(_root_state, most=1024)
"""Trace state and sampling ratio of a root; a backend that weighs spans by an attribute looks for it on roots."""
