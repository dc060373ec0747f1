"""
Keep the batches in a file, and read them back exactly.

In: batches, names, counters.  Out: the same.  A file is a row of chunks, only ever appended to: a fixed header and its
payload, both multiples of 8 bytes, so that records in a mapped file are aligned.  Whatever happens to the end of a
file, the chunks before it are read.

    header    u32 magic, u32 kind, u64 payload bytes, s64 Unix offset of the batch in ns, u32 0, u32 crc32 of the
              header before it and of the payload; little endian
    kinds     1 details (JSON; first, once): format version, layout of a record, where it was made
              2 names (JSON of `Names.to_json`), whenever something new is known; they count for the whole file
              3 records (raw `RECORD`): one batch each
              4 counters (JSON): the kernel's, name to number; the last one counts
    JSON is filled up with spaces.

Nothing in a file is executed or trusted: it may come from somebody else.
"""

import json
import os
import platform
import stat
import struct
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from otel_qemu.errors import BadInput
from otel_qemu.events import COUNTERS, RECORD, Batch, records_of
from otel_qemu.trace.names import Names

FORMAT = 1
"""Version of the file format; another one is refused."""

_MAGIC = int.from_bytes(b"oqr\n", "little")
_HEADER = struct.Struct("<IIQqI")
_CRC = struct.Struct("<I")
_HEADER_BYTES = _HEADER.size + _CRC.size


class ChunkKind(IntEnum):
    """What a chunk's payload is."""

    DETAILS = 1
    NAMES = 2
    RECORDS = 3
    COUNTERS = 4


def _layout() -> dict[str, Any]:
    """What a file must say about its records to be read by this version."""
    assert RECORD.fields is not None
    columns = RECORD.fields.items()
    fields = [[name, column[0].base.str, list(column[0].shape), column[1]] for name, column in columns]
    return {"format": FORMAT, "record_bytes": RECORD.itemsize, "fields": fields}


def _provenance() -> dict[str, Any]:
    return {"kernel": platform.release(), "command": sys.argv, "created_unix_ns": time.time_ns()}


# ---- writing --------------------------------------------------------------------------------------------------------


class RecordingWriter:
    """
    Writes a recording; a context manager.

    An earlier recording of that name is replaced, by a new file, so that whoever reads the old one is not disturbed.
    Anything else that has the name is left alone: a typing error must not cost a disk image.  Only the owner may read
    the file: it tells what guests do.
    """

    def __init__(self, path: Path, details: dict[str, Any]) -> None:
        """
        Create the file and write its first chunk.

        Args:
            path: of the file.
            details: where it was made, plain data; goes over what is known without it: ``kernel`` (release),
                ``command`` (the arguments of this process), ``created_unix_ns``.

        Raises:
            BadInput: the path cannot be written, or something that is not a recording is there.
        """
        self._path = Path(path)
        self._names: dict[str, Any] | None = None
        self._size_bytes = 0
        self._fd = _create(self._path)
        everything = {**_provenance(), **details, **_layout(), "counters": list(COUNTERS)}
        self._append_json(ChunkKind.DETAILS, everything)

    def write(self, batch: Batch) -> None:
        """Append a batch; one without records is passed over.  Raises BadInput when the disk does not take it."""
        if len(batch):
            self._append(ChunkKind.RECORDS, np.ascontiguousarray(batch.records).tobytes(), batch.unix_offset_ns)

    def write_names(self, names: Names) -> None:
        """Append what is known of names, if it is not what was written last.  Raises BadInput as `write`."""
        data = names.to_json()
        if data != self._names:
            self._append_json(ChunkKind.NAMES, data)
            self._names = data

    def write_counters(self, counters: dict[str, int]) -> None:
        """Append the kernel's counters as they are now, by name.  Raises BadInput as `write`."""
        self._append_json(ChunkKind.COUNTERS, counters)

    def close(self) -> None:
        """Close the file; a second time does nothing.  Raises BadInput when the disk only now says it is full."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            try:
                os.close(fd)
            except OSError as error:
                raise self._not_written(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append_json(self, kind: ChunkKind, data: dict[str, Any]) -> None:
        payload = json.dumps(data).encode()
        self._append(kind, payload + b" " * (-len(payload) % 8))

    def _append(self, kind: ChunkKind, payload: bytes, unix_offset_ns: int = 0) -> None:
        header = _HEADER.pack(_MAGIC, kind, len(payload), unix_offset_ns, 0)
        chunk = header + _CRC.pack(zlib.crc32(payload, zlib.crc32(header))) + payload
        rest = memoryview(chunk)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            self._shorten()
            raise self._not_written(error) from error
        self._size_bytes += len(chunk)

    def _shorten(self) -> None:
        # What was written of a chunk that did not fit would read as damage: the file ends with its last whole chunk.
        try:
            os.ftruncate(self._fd, self._size_bytes)
            os.lseek(self._fd, self._size_bytes, os.SEEK_SET)
        except OSError:
            pass

    def _not_written(self, error: OSError) -> BadInput:
        return BadInput(f"cannot write recording {self._path}: {error.strerror}: make room, or choose another place")


def _create(path: Path) -> int:
    try:
        if os.path.lexists(path):
            _refuse_unless_recording(path)
            path.unlink()
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise BadInput(f"cannot write recording {path}: {error.strerror}: choose another place") from error


def _refuse_unless_recording(path: Path) -> None:
    mode = path.lstat().st_mode
    if not stat.S_ISREG(mode):
        raise BadInput(f"cannot write recording {path}: it exists and is not a regular file: choose another name")
    with path.open("rb") as file:
        start = file.read(4)
    if start and start != _MAGIC.to_bytes(4, "little"):
        raise BadInput(f"cannot write recording {path}: it exists and is not a recording: choose another name")


# ---- reading --------------------------------------------------------------------------------------------------------


class _DamageError(Exception):
    """The rest of the file cannot be read; the text says where and why."""


@dataclass(frozen=True)
class _Chunk:
    at: int
    kind: int
    unix_offset_ns: int
    payload: NDArray[np.uint8]

    def json(self) -> dict[str, Any]:
        try:
            data = json.loads(self.payload.tobytes())
        except (ValueError, RecursionError) as error:
            raise self.damage("is not JSON") from error
        if not isinstance(data, dict):
            raise self.damage("is not a JSON object")
        return data

    def damage(self, what: str) -> _DamageError:
        name = ChunkKind(self.kind).name.lower() if self.kind in list(ChunkKind) else f"of unknown kind {self.kind}"
        return _DamageError(f"damaged at byte {self.at}: the chunk that begins here ({name}) {what}")


@dataclass
class Recording:
    """
    A recording, mapped into memory.

    Attributes:
        path: of the file.
        details: its first chunk: ``format``, ``record_bytes``, ``fields``, ``counters`` (their names), ``kernel``,
            ``command``, ``created_unix_ns``, and what the writer was given.  Not checked: only for people to read.
        names: all that the file knows, for its whole length; later knowledge wins.
        counters: the kernel's at the end; empty when the recording was not ended in order.
        damage: what is wrong with the file and at which byte; None when it is whole.  What comes before is read.
    """

    path: Path
    details: dict[str, Any]
    names: Names = field(default_factory=Names)
    counters: dict[str, int] = field(default_factory=dict)
    damage: str | None = None
    _batches: list[_Chunk] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path) -> Self:
        """
        Read a file's names and counters, and check all of its chunks.

        Raises:
            BadInput: it cannot be read, is not a recording, or is one of another format or layout of records.
        """
        path = Path(path)
        data = _mapped(path)
        if bytes(data[:4]) != _MAGIC.to_bytes(4, "little"):
            raise BadInput(f"{path} is not a recording: it begins with {bytes(data[:8])!r}: {_REMEDY}")
        chunks = _chunks(data)
        try:
            first = next(chunks)
            details = first.json()
        except _DamageError as error:
            raise BadInput(f"{path}: nothing of this recording can be read: {error}: {_REMEDY}") from error
        _check_layout(path, first, details)
        recording = cls(path, details)
        try:
            for chunk in chunks:
                recording._take(chunk)
        except _DamageError as error:
            recording.damage = str(error)
        return recording

    def batches(self) -> Iterator[Batch]:
        """Every batch as it was written, without a copy: read-only views of the file.  Can be called again."""
        for chunk in self._batches:
            yield Batch(records_of(chunk.payload), chunk.unix_offset_ns)

    def _take(self, chunk: _Chunk) -> None:
        match chunk.kind:
            case ChunkKind.RECORDS if len(chunk.payload) % RECORD.itemsize:
                raise chunk.damage(f"has {len(chunk.payload)} bytes, which are not records of {RECORD.itemsize}")
            case ChunkKind.RECORDS if len(chunk.payload):
                self._batches.append(chunk)
            case ChunkKind.RECORDS:
                pass
            case ChunkKind.NAMES:
                self.names.update(_names(chunk))
            case ChunkKind.COUNTERS:
                self.counters = _counters(chunk)
            case _:
                raise chunk.damage("does not belong here")


_REMEDY = "give a file that `otel-qemu record` wrote"


def _mapped(path: Path) -> NDArray[np.uint8]:
    """A file's bytes, read only, mapped and not loaded."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # before opening it: a pipe would wait for a writer
            raise BadInput(f"{path} is not a recording: it is not a regular file: {_REMEDY}")
        if status.st_size == 0:
            raise BadInput(f"{path} is not a recording: it is empty: {_REMEDY}")
        return np.memmap(path, dtype="u1", mode="r")
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}: {_REMEDY}") from error


def _chunks(data: NDArray[np.uint8]) -> Iterator[_Chunk]:
    """Chunks in order, each checked; raises _DamageError where the rest cannot be read."""
    at, size_bytes = 0, len(data)
    while at < size_bytes:
        begin = at + _HEADER_BYTES
        if begin > size_bytes:
            raise _DamageError(f"cut off at byte {size_bytes}: the last chunk's header is not whole")
        header = data[at : begin - _CRC.size].tobytes()
        magic, kind, payload_bytes, unix_offset_ns, _ = _HEADER.unpack(header)
        if magic != _MAGIC:
            raise _DamageError(f"damaged at byte {at}: a chunk should begin here, and none does")
        if payload_bytes > size_bytes - begin:
            there = size_bytes - begin
            raise _DamageError(
                f"cut off at byte {size_bytes}: the last chunk says {payload_bytes} bytes, {there} are there"
            )
        chunk = _Chunk(at, kind, unix_offset_ns, data[begin : begin + payload_bytes])
        (crc,) = _CRC.unpack(data[begin - _CRC.size : begin].tobytes())
        if crc != zlib.crc32(chunk.payload.data, zlib.crc32(header)):
            raise chunk.damage("does not match its checksum")
        if payload_bytes % 8:
            raise chunk.damage(f"has {payload_bytes} bytes, which is not a multiple of 8")
        yield chunk
        at = begin + payload_bytes


def _check_layout(path: Path, first: _Chunk, details: dict[str, Any]) -> None:
    expected = _layout()
    if first.kind != ChunkKind.DETAILS or "format" not in details:
        raise BadInput(f"{path} is not a recording: its first chunk does not say its format: {_REMEDY}")
    if details["format"] != FORMAT:
        found = repr(details["format"])[:20]
        raise BadInput(f"{path} is a recording of format {found}, this reads {FORMAT}: {_SAME_VERSION}")
    if any(details.get(key) != expected[key] for key in expected):
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


def _names(chunk: _Chunk) -> Names:
    try:
        names = Names.from_json(chunk.json())
        _check_names(names)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise chunk.damage("does not hold names") from error
    return names


def _check_names(names: Names) -> None:
    """Raise TypeError unless every name is text or None, and every number one: what reads them relies on it."""
    disks = [*names.devices.values(), *names.images.values(), *(d for g in names.guests.values() for d in g.disks)]
    for disk in disks:
        _expect(str, disk.alias)
        _expect(str | None, disk.target, disk.pool, disk.image, disk.format)
        _expect(bool, disk.throttled)
    for guest in names.guests.values():
        _expect(int, guest.pid)
        _expect(str, guest.executable)
        _expect(str | None, guest.uuid, guest.name)
    for pid, pointer in [*names.devices, *names.images]:
        _expect(int, pid, pointer)


def _expect(kind: Any, *values: Any) -> None:
    if not all(isinstance(value, kind) for value in values):
        raise TypeError(f"{values!r} is not of type {kind}")


def _counters(chunk: _Chunk) -> dict[str, int]:
    counters = chunk.json()
    if not all(isinstance(number, int) for number in counters.values()):
        raise chunk.damage("does not hold counters")
    return counters
