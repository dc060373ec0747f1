# SPDX-License-Identifier: Apache-2.0
"""Fields that differ from span to span (ids, times, durations, addresses, sizes), serialised by the column."""

import numpy as np
from numpy.typing import NDArray
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_qemu.events import Ending, RbdOperation
from otel_qemu.export import semconv
from otel_qemu.export.spans.ids import SPAN_ID_BYTES, TRACE_ID_BYTES
from otel_qemu.export.spans.wire import Block, IntegerAttribute, double_tag, tag_of
from otel_qemu.trace.traces import Table

_NS_A_SECOND = 1e9

_TRACE_ID = ("trace_id", tag_of(Span(trace_id=b"t" * TRACE_ID_BYTES), TRACE_ID_BYTES), f"V{TRACE_ID_BYTES}")
_SPAN_ID = ("span_id", tag_of(Span(span_id=b"s" * SPAN_ID_BYTES), SPAN_ID_BYTES), f"V{SPAN_ID_BYTES}")
_PARENT_ID = ("parent_id", tag_of(Span(parent_span_id=b"p" * SPAN_ID_BYTES), SPAN_ID_BYTES), f"V{SPAN_ID_BYTES}")
_BEGIN = ("begin_ns", tag_of(Span(start_time_unix_nano=1), 8), "<u8")
_END = ("end_ns", tag_of(Span(end_time_unix_nano=1), 8), "<u8")

ROOT = Block(_TRACE_ID, _SPAN_ID, _BEGIN, _END)
"""Ids and times of a span without a parent."""
CHILD = Block(_TRACE_ID, _SPAN_ID, _PARENT_ID, _BEGIN, _END)
"""Ids and times of a span with one."""

_DURATIONS = Block(
    ("wait_ns", double_tag(semconv.BLOCK_WAIT_DURATION), "<f8"),
    ("rbd_ns", double_tag(semconv.RBD_DURATION), "<f8"),
    ("completion_ns", double_tag(semconv.COMPLETION_DURATION), "<f8"),
)
_TAG, _SIZE = IntegerAttribute(semconv.SCSI_TAG), IntegerAttribute(semconv.SCSI_TRANSFER_SIZE)
_LBA = IntegerAttribute(semconv.SCSI_LBA)
_OFFSET, _LENGTH = IntegerAttribute(semconv.RBD_OFFSET), IntegerAttribute(semconv.RBD_LENGTH)


def of_requests(requests: Table) -> tuple[list[bytes], ...]:
    """Serialised parts of the spans of requests, a column each, shape (n,)."""
    # A command that addresses no blocks has neither; one that does has its block size, or an address.
    addressed = (requests["block_bytes"] > 0) | (requests["lba"] > 0)
    # Of a request whose end was not seen, nobody knows where its time went.
    ended = requests["ending"] != Ending.LOST
    return (
        _TAG.column(requests["tag"].astype("u8")),
        _SIZE.column(requests["bytes"]),
        _where(addressed, _LBA.column(requests["lba"])),
        _where(ended, _durations(requests)),
    )


def of_calls(calls: Table) -> tuple[list[bytes], ...]:
    """Serialised parts of the spans of calls, a column each, shape (n,)."""
    has_range = calls["operation"] != RbdOperation.FLUSH
    columns = _OFFSET.column(calls["offset"]), _LENGTH.column(calls["length"])
    return tuple(_where(has_range, column) for column in columns)


def _durations(requests: Table) -> list[bytes]:
    seconds = {name: requests[name] / _NS_A_SECOND for name in ("wait_ns", "rbd_ns", "completion_ns")}
    return _DURATIONS.column(len(requests), **seconds)


def _where(present: NDArray[np.bool_], column: list[bytes]) -> list[bytes]:
    for row in np.flatnonzero(~present).tolist():
        column[row] = b""
    return column
