# SPDX-License-Identifier: Apache-2.0
"""
Keep the batches in a file, and read them back exactly.

In: batches, names, counters.  Out: the same.  `chunks` says how a file is laid out; whatever happens to the end of one,
the chunks before it are read.

Nothing in a file is executed or trusted: it may come from somebody else.
"""

import json
import operator
import os
import platform
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from otel_qemu.errors import BadInput
from otel_qemu.events import COUNTERS, RECORD, Batch, records_of
from otel_qemu.trace.chunks import (
    MAGIC,
    REMEDY,
    Chunk,
    ChunkKind,
    DamageError,
    check_layout,
    chunk_bytes,
    chunks_of,
    layout,
)
from otel_qemu.trace.decode import impossible
from otel_qemu.trace.names import Names

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
            details: where it was made, plain data, such as ``bounds_s`` of the kernel's histograms; goes over what is
                known without it: ``kernel`` (release), ``machine``, ``command`` (the arguments of this process) and
                ``clock``, the two clocks at this moment (``monotonic_ns``, ``unix_ns``).

        Raises:
            BadInput: the path cannot be written, or something that is not a recording is there.
        """
        self._path = Path(path)
        self._names: dict[str, Any] | None = None
        self._fd = _create(self._path)
        clock = {"monotonic_ns": time.monotonic_ns(), "unix_ns": time.time_ns()}
        made = {"kernel": platform.release(), "machine": platform.machine(), "command": sys.argv, "clock": clock}
        self._append_json(ChunkKind.DETAILS, {**made, **details, **layout(), "counters": list(COUNTERS)})

    def write(self, batch: Batch) -> None:
        """Append a batch; one without records is passed over.  Raises BadInput when the disk does not take it."""
        if len(batch):
            self._append(ChunkKind.RECORDS, np.ascontiguousarray(batch.records).tobytes(), batch.unix_offset_ns)

    def write_names(self, names: Names) -> None:
        """Append the known names, unless they were written last.  Raises BadInput as `write`."""
        data = names.to_json()
        if data != self._names:
            self._append_json(ChunkKind.NAMES, data)
            self._names = data

    def write_counters(self, counters: dict[str, int]) -> None:
        """Append the kernel's counters as they are now, by name.  Raises BadInput as `write`."""
        self._append_json(ChunkKind.COUNTERS, counters)

    def write_processes(self, processes: list[dict[str, Any]]) -> None:
        """Append what records of some processes depend on, each with its ``pid``.  Raises BadInput as `write`."""
        self._append_json(ChunkKind.PROCESSES, {"processes": processes})

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

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append_json(self, kind: ChunkKind, data: dict[str, Any]) -> None:
        payload = json.dumps(data).encode()
        self._append(kind, payload + b" " * (-len(payload) % 8))

    def _append(self, kind: ChunkKind, payload: bytes, unix_offset_ns: int = 0) -> None:
        rest = memoryview(chunk_bytes(kind, payload, unix_offset_ns))
        size_bytes = os.fstat(self._fd).st_size
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            # Part of a chunk would read as damage: the file ends with its last whole chunk.
            with suppress(OSError):
                os.ftruncate(self._fd, size_bytes)
            raise self._not_written(error) from error

    def _not_written(self, error: OSError) -> BadInput:
        return BadInput(f"cannot write recording {self._path}: {error.strerror}: make room, or choose another place")


def _create(path: Path) -> int:
    try:
        if os.path.lexists(path):
            _refuse_unless_recording(path)
            path.unlink()
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise BadInput(f"cannot write recording {path}: {error.strerror}: choose another place") from error


def _refuse_unless_recording(path: Path) -> None:
    mode = path.lstat().st_mode
    if not stat.S_ISREG(mode):
        raise BadInput(f"cannot write recording {path}: it exists and is not a regular file: choose another name")
    with path.open("rb") as file:
        start = file.read(4)
    if start and start != MAGIC.to_bytes(4, "little"):
        raise BadInput(f"cannot write recording {path}: it exists and is not a recording: choose another name")


# ---- reading --------------------------------------------------------------------------------------------------------


@dataclass
class Recording:
    """
    A recording, mapped into memory.

    Attributes:
        details: its first chunk: ``format``, ``record_bytes``, ``fields``, ``counters`` (their names), ``kernel``,
            ``machine``, ``command``, ``clock``, and what the writer was given.  Not checked: for people to read.
        processes: what was traced, by pid: build ids, versions, layouts.  Not checked either.
        names: all that the file knows, for its whole length; later knowledge wins.
        counters: the kernel's at the end; empty when the recording was not ended in order.
        damage: the fault of the file and its byte; None when it is whole.  Chunks before it are read.
    """

    details: dict[str, Any]
    names: Names = field(default_factory=Names)
    counters: dict[str, int] = field(default_factory=dict)
    processes: dict[int, dict[str, Any]] = field(default_factory=dict)
    damage: str | None = None
    _batches: list[Chunk] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path) -> Self:
        """
        Read a file's names and counters, and check all of its chunks.

        Raises:
            BadInput: it cannot be read, is not a recording, or is one of another format or layout of records.
        """
        path = Path(path)
        data = _mapped(path)
        if bytes(data[:4]) != MAGIC.to_bytes(4, "little"):
            raise BadInput(f"{path} is not a recording: it begins with {bytes(data[:8])!r}: {REMEDY}")
        chunks = chunks_of(data)
        try:
            first = next(chunks)
            details = first.json()
        except DamageError as error:
            raise BadInput(f"{path}: nothing of this recording can be read: {error}: {REMEDY}") from error
        check_layout(path, first, details)
        recording = cls(details)
        try:
            for chunk in chunks:
                recording._take(chunk)
        except DamageError as error:
            recording.damage = str(error)
        return recording

    @property
    def one_in(self) -> int:
        """N of the one in N that the kernel kept of what was neither an error nor slow; 1 if the file does not say."""
        one_in = self.details.get("one_in")
        return one_in if isinstance(one_in, int) and one_in >= 0 else 1

    def batches(self) -> Iterator[Batch]:
        """Every batch as it was written, without a copy: read-only views of the file.  Can be called again."""
        for chunk in self._batches:
            yield Batch(records_of(chunk.payload), chunk.unix_offset_ns)

    def _take(self, chunk: Chunk) -> None:
        try:
            match chunk.kind:
                case ChunkKind.RECORDS:
                    self._take_records(chunk)
                case ChunkKind.NAMES:
                    self.names.update(_checked(Names.from_json(chunk.json())))
                case ChunkKind.COUNTERS:
                    self.counters = {name: operator.index(number) for name, number in chunk.json().items()}
                case ChunkKind.PROCESSES:
                    self.processes |= {int(process["pid"]): process for process in chunk.json()["processes"]}
                case _:
                    raise chunk.damage("does not belong here")
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise chunk.damage(f"does not hold {ChunkKind(chunk.kind).name.lower()}") from error

    def _take_records(self, chunk: Chunk) -> None:
        if len(chunk.payload) % RECORD.itemsize:
            raise chunk.damage(f"has {len(chunk.payload)} bytes, which are not records of {RECORD.itemsize}")
        if what := impossible(records_of(chunk.payload)):
            raise chunk.damage(f"holds {what}")
        if len(chunk.payload):
            self._batches.append(chunk)


def _mapped(path: Path) -> NDArray[np.uint8]:
    """A file's bytes, read only, mapped and not loaded."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # before opening it: a pipe would wait for a writer
            raise BadInput(f"{path} is not a recording: it is not a regular file: {REMEDY}")
        if status.st_size == 0:
            raise BadInput(f"{path} is not a recording: it is empty: {REMEDY}")
        return np.memmap(path, dtype="u1", mode="r")
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}: {REMEDY}") from error


def _checked(names: Names) -> Names:
    """The same; raises TypeError unless every name is text or None, and every number one, as their readers expect."""
    guests = list(names.guests.values())
    disks = [*names.devices.values(), *names.images.values(), *(disk for guest in guests for disk in guest.disks)]
    for name, value in (each for row in (*guests, *disks) for each in vars(row).items()):
        if not isinstance(value, _TYPES.get(name, str | None)):
            raise TypeError(f"{name} is {value!r}")
    if not all(isinstance(number, int) for key in (*names.devices, *names.images) for number in key):
        raise TypeError("a key is no pair of numbers")
    return names


_TYPES = {"pid": int, "executable": str, "disks": tuple, "alias": str, "throttled": bool}
"""What the fields of a guest and a disk hold; the others hold a text or None."""
