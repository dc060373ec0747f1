# SPDX-License-Identifier: Apache-2.0
"""
Parts of OTLP messages by the column: thousands of serialised spans without an object for any of them.

Serialised messages of one type that stand behind each other are one message (Protocol Buffers, "Encoding", section
"Last One Wins").  So a span is put together from serialised parts, and only what differs from span to span is written
here, behind tags and lengths that protobuf itself has written.
"""

from collections.abc import Callable, Hashable, Iterable
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_qemu.export.attributes import key_values

_Key = TypeVar("_Key", bound=Hashable)

_INT64_SIZE = 9
"""Bytes of the longest varint that OTLP's int64 has for a number that is not negative."""
_INT64_END = np.uint64(1 << 63)
_SHIFTS = np.arange(0, 7 * _INT64_SIZE, 7, dtype="u8")
_DIGIT = np.uint64(0x7F)

LAST_NS = (1 << 64) - 1
Times = NDArray[np.uint64]
"""Of records in ns, shape (n,): held within 64 bits, whatever a broken recording says."""


class BytesCache(dict[_Key, bytes]):
    """Bytes by key, made when first asked for; when there are too many, all are forgotten."""

    def __init__(self, make: Callable[[_Key], bytes], most: int = 8192) -> None:
        super().__init__()
        self._make = make
        self._most = most

    def __missing__(self, key: _Key) -> bytes:
        if len(self) >= self._most:
            self.clear()
        made = self[key] = self._make(key)
        return made

    def column(self, keys: Iterable[_Key]) -> list[bytes]:
        """The bytes of each key."""
        return list(map(self.__getitem__, keys))


class Block:
    """
    Serialised messages that differ in fields of fixed size alone, each field standing behind the same bytes.

    Args:
        fields: name, the bytes before it, and the numpy type of each.
    """

    def __init__(self, *fields: tuple[str, bytes, str]) -> None:
        tags = [(f"{name} tag", f"V{len(tag)}") for name, tag, _ in fields]
        self._dtype = np.dtype([part for at, (name, _, kind) in enumerate(fields) for part in (tags[at], (name, kind))])
        self._template = np.zeros(1, self._dtype)
        for name, tag, _ in fields:
            self._template[f"{name} tag"] = np.void(tag)

    def column(self, count: int, **columns: NDArray[Any]) -> list[bytes]:
        """`count` messages, with a column of values for each field."""
        rows = np.repeat(self._template, count)
        for name, values in columns.items():
            rows[name] = values
        found: list[bytes] = rows.view(f"V{self._dtype.itemsize}").tolist()
        return found


def tag_of(message: Span, value_bytes: int) -> bytes:
    """Everything that protobuf writes before the value of a message's only field, a value of this size."""
    return message.SerializeToString()[:-value_bytes]


def double_tag(key: str) -> bytes:
    """Everything that stands before the value of an attribute that is a double."""
    return tag_of(Span(attributes=key_values({key: 1.0})), 8)


class IntegerAttribute:
    """An attribute of spans that is a number, 0 or more, and seldom the same twice."""

    def __init__(self, key: str) -> None:
        self._key = key
        largest = [(1 << 7 * size) - 1 for size in range(1, _INT64_SIZE + 1)]
        tags = [tag_of(Span(attributes=key_values({key: value})), size) for size, value in enumerate(largest, 1)]
        self._tags = [b"", *tags, b""]
        """By the size of the varint; none for one that is longer than int64's."""

    def column(self, values: NDArray[np.uint64]) -> list[bytes]:
        """A serialised `Span` with nothing but this attribute, for each value; as text where int64 cannot hold it."""
        tags = self._tags
        width = min(-(-int(values.max(initial=1)).bit_length() // 7), _INT64_SIZE)
        rest = values[:, None] >> _SHIFTS[:width]
        follows = rest > _DIGIT
        digits = (rest & _DIGIT).astype("u1") | follows.astype("u1") << 7
        rows = zip((follows.sum(axis=1) + 1).tolist(), digits.view(f"V{width}").ravel().tolist(), strict=True)
        found = [tags[size] + row[:size] for size, row in rows]
        for row in np.flatnonzero(values >= _INT64_END).tolist():
            found[row] = Span(attributes=key_values({self._key: str(values[row])})).SerializeToString()
        return found


def joined(*columns: list[bytes]) -> list[bytes]:
    """Each row's parts behind each other."""
    return list(map(b"".join, zip(*columns, strict=True)))


class Field:
    """
    A field of a message that holds messages.

    Args:
        example: of the message, with nothing but one empty message in that field.
    """

    def __init__(self, example: Message) -> None:
        self._tag = example.SerializeToString().removesuffix(b"\0")
        self._heads = BytesCache(self._head)

    def of(self, content: bytes) -> bytes:
        """The serialised message with this serialised one in the field."""
        return self._heads[len(content)] + content

    def column(self, contents: list[bytes]) -> list[bytes]:
        """The same of each."""
        heads = self._heads
        return [heads[len(content)] + content for content in contents]

    def _head(self, size_bytes: int) -> bytes:
        digits = [size_bytes >> shift & 0x7F for shift in range(0, max(size_bytes.bit_length(), 1), 7)]
        return self._tag + bytes([digit | 0x80 for digit in digits[:-1]] + digits[-1:])


def unix_ns(times_ns: Times, offset_ns: int) -> Times:
    """Unix times: each time with an offset of any sign and size, clamped to 0 and `LAST_NS`."""
    size = np.uint64(min(abs(offset_ns), LAST_NS))
    if offset_ns < 0:
        return np.where(times_ns > size, times_ns - size, np.uint64(0))
    return later(times_ns, size)


def later(times_ns: Times, by_ns: Times | np.uint64) -> Times:
    """The sum of each time and its delay, `LAST_NS` at most."""
    moved = times_ns + by_ns
    return np.where(moved < times_ns, np.uint64(LAST_NS), moved)
