"""
Traces in a file, one after the other: what the spool keeps.

A frame is length, checksum and span count (``<III``), and then the trace; the length is of the trace, the checksum of
the count and the trace.  A file that ends in the middle, or is damaged, is read up to there.
"""

import struct
import zlib
from collections.abc import Iterable
from typing import NamedTuple

from otel_qemu.export.spans.encoded import EncodedTrace

_HEADER = struct.Struct("<III")
_IDS = struct.Struct("<16s8sI")  # trace id, root id, length of the resource


class Frames(NamedTuple):
    """
    What a file holds.

    Attributes:
        traces: whole and undamaged, in the order in which they were written.
        damage: what is wrong behind them, and how many bytes that costs; empty: nothing.
    """

    traces: list[EncodedTrace]
    damage: str


def frame(trace: EncodedTrace) -> bytes:
    """A trace as the file has it."""
    payload = b"".join((_IDS.pack(trace.trace_id, trace.root_id, len(trace.resource)), trace.resource, trace.spans))
    return _HEADER.pack(len(payload), _checksum(trace.span_count, payload), trace.span_count) + payload


def read_frames(content: bytes) -> Frames:
    """Every trace of a file up to its end or its first damage; those of a guest share their resource."""
    resources: dict[bytes, bytes] = {}
    traces: list[EncodedTrace] = []
    position = 0
    while position < len(content):
        begin = position + _HEADER.size
        if begin > len(content):
            return Frames(traces, _damage("cut off", content, position))
        length, checksum, spans = _HEADER.unpack_from(content, position)
        payload = content[begin : begin + length]
        if len(payload) < length:
            return Frames(traces, _damage("cut off", content, position))
        trace = _trace(payload, spans, resources) if _checksum(spans, payload) == checksum else None
        if trace is None:
            return Frames(traces, _damage("damaged", content, position))
        traces.append(trace)
        position = begin + length
    return Frames(traces, "")


def framed(traces: Iterable[EncodedTrace]) -> bytes:
    """Traces as the file has them."""
    return b"".join(map(frame, traces))


def _trace(payload: bytes, spans: int, resources: dict[bytes, bytes]) -> EncodedTrace | None:
    """The trace; None: its lengths do not fit each other."""
    if len(payload) < _IDS.size:
        return None
    trace_id, root_id, length = _IDS.unpack_from(payload)
    end = _IDS.size + length
    if end > len(payload):
        return None
    resource = payload[_IDS.size : end]
    return EncodedTrace(trace_id, root_id, resources.setdefault(resource, resource), payload[end:], spans)


def _checksum(spans: int, payload: bytes) -> int:
    return zlib.crc32(payload, spans)


def _damage(what: str, content: bytes, position: int) -> str:
    return f"{what} at byte {position} of {len(content)}"
