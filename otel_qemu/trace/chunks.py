# SPDX-License-Identifier: Apache-2.0
"""
What a recording is made of: chunks, each a fixed header and its payload, one after the other.

    header    u32 magic, u32 kind, u64 payload bytes, s64 Unix offset of the batch in ns, u32 0, u32 crc32 of the
              header before it and of the payload; little endian
    kinds     1 details (JSON; first, once): format version, layout of a record, where and when it was made
              2 names (JSON of `Names.to_json`), whenever something new is known; they count for the whole file
              3 records (raw `RECORD`): one batch each
              4 counters (JSON): the kernel's, name to number; the last one counts
              5 processes (JSON): what was traced: build ids, versions, layouts of structs; they add up, by pid
    JSON is filled up with spaces.

Both parts are multiples of 8 bytes, so that records in a mapped file are aligned.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_qemu.errors import BadInput
from otel_qemu.events import RECORD

FORMAT = 2
"""Version of the file format that is written."""

READABLE = (1, 2)
"""Versions that are read; others are refused.  1 had no processes, and neither clock nor bounds in its details."""

MAGIC = int.from_bytes(b"oqr\n", "little")
_HEADER = struct.Struct("<IIQqI")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CRC.size


class ChunkKind(IntEnum):
    """What a chunk's payload is."""

    DETAILS = 1
    NAMES = 2
    RECORDS = 3
    COUNTERS = 4
    PROCESSES = 5


def layout() -> dict[str, Any]:
    """What a file must say about its records to be read by this version."""
    assert RECORD.fields is not None
    columns = RECORD.fields.items()
    fields = [[name, column[0].base.str, list(column[0].shape), column[1]] for name, column in columns]
    return {"format": FORMAT, "record_bytes": RECORD.itemsize, "fields": fields}


def chunk_bytes(kind: ChunkKind, payload: bytes, unix_offset_ns: int = 0) -> bytes:
    """A whole chunk; the offset is that of a batch's clocks."""
    header = _HEADER.pack(MAGIC, kind, len(payload), unix_offset_ns, 0)
    return header + _CRC.pack(zlib.crc32(payload, zlib.crc32(header))) + payload


REMEDY = "give a file that `otel-qemu record` wrote"


class DamageError(Exception):
    """The rest of the file cannot be read; the text says where and why."""


@dataclass(frozen=True)
class Chunk:
    """One chunk, checked: where it begins, its kind, the clocks of its batch, and a view of its payload."""

    at: int
    kind: int
    unix_offset_ns: int
    payload: NDArray[np.uint8]

    def json(self) -> dict[str, Any]:
        """The payload as a JSON object; raises DamageError when it is something else."""
        try:
            data = json.loads(self.payload.tobytes())
        except (ValueError, RecursionError) as error:
            raise self.damage("is not JSON") from error
        if not isinstance(data, dict):
            raise self.damage("is not a JSON object")
        return data

    def damage(self, what: str) -> DamageError:
        """The error of this chunk, as a sentence."""
        name = ChunkKind(self.kind).name.lower() if self.kind in list(ChunkKind) else f"of unknown kind {self.kind}"
        return DamageError(f"damaged at byte {self.at}: the chunk that begins here ({name}) {what}")


def chunks_of(data: NDArray[np.uint8]) -> Iterator[Chunk]:
    """Chunks in order, each checked; raises DamageError where the rest cannot be read."""
    at, size_bytes = 0, len(data)
    while at < size_bytes:
        begin = at + HEADER_BYTES
        if begin > size_bytes:
            raise DamageError(f"cut off at byte {size_bytes}: the last chunk's header is not whole")
        header = data[at : begin - _CRC.size].tobytes()
        magic, kind, payload_bytes, unix_offset_ns, _ = _HEADER.unpack(header)
        if magic != MAGIC:
            raise DamageError(f"damaged at byte {at}: a chunk should begin here, and none does")
        if payload_bytes > size_bytes - begin:
            there = size_bytes - begin
            raise DamageError(
                f"cut off at byte {size_bytes}: the last chunk says {payload_bytes} bytes, {there} are there"
            )
        chunk = Chunk(at, kind, unix_offset_ns, data[begin : begin + payload_bytes])
        (crc,) = _CRC.unpack(data[begin - _CRC.size : begin].tobytes())
        if crc != zlib.crc32(chunk.payload.data, zlib.crc32(header)):
            raise chunk.damage("does not match its checksum")
        if payload_bytes % 8:
            raise chunk.damage(f"has {payload_bytes} bytes, which is not a multiple of 8")
        yield chunk
        at = begin + payload_bytes


def check_layout(path: Path, first: Chunk, details: dict[str, Any]) -> None:
    """Raise BadInput unless a file's first chunk says that this version can read it."""
    expected = layout()
    if first.kind != ChunkKind.DETAILS or "format" not in details:
        raise BadInput(f"{path} is not a recording: its first chunk does not say its format: {REMEDY}")
    if details["format"] not in READABLE:
        found = repr(details["format"])[:20]
        readable = " and ".join(map(str, READABLE))
        raise BadInput(f"{path} is a recording of format {found}, this reads {readable}: {_SAME_VERSION}")
    if any(details.get(key) != expected[key] for key in ("record_bytes", "fields")):
        difference = _difference(details.get("fields"), expected["fields"])
        raise BadInput(f"{path} has records of another layout ({difference}): {_SAME_VERSION}")


_SAME_VERSION = "replay it with the version of otel-qemu that recorded it"


def _difference(found: Any, expected: list[Any]) -> str:
    """The first field that is not as expected."""
    for index, wanted in enumerate(expected):
        have = found[index] if isinstance(found, list) and index < len(found) else None
        if have != wanted:
            return f"field {index} is {repr(have)[:60]}, not {wanted!r}"
    return "there are more fields or bytes"
