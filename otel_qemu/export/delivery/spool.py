"""
Traces on disk: what memory had no room for while the endpoint was away, and what was left at the end.

In: portions of the queue.  Out: the same, oldest first, also to the next run.  A file is written at its end only, read
whole, and deleted when the fate of its last trace is known.  Nothing is forced to the disk: what was written survives
the end of this process, however it ends, but not necessarily a loss of power.
"""

import contextlib
import fcntl
import logging
import os
import threading
from collections import deque
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from otel_qemu.errors import BadInput
from otel_qemu.export.delivery.frames import framed, read_frames
from otel_qemu.export.delivery.portions import Bounds, count_leading
from otel_qemu.export.delivery.queue import settle
from otel_qemu.export.delivery.stats import Ledger
from otel_qemu.export.spans.encoded import EncodedTrace

FILE_BYTES = 1 << 20
"""From this size on a file gets no more: what is sent twice after a kill is no more than that."""
_SUFFIX, _BESIDE = ".traces", ".new"
_logger = logging.getLogger(__name__)


class Spool:
    """
    A folder of files of traces; one process at a time.

    One thread works on the disk, by `append`, `refill` and `close`; another sends, by `peek`, `settle` and `put_back`,
    which are about memory only: a disk that hangs holds up nothing but itself.

    Args:
        directory: made if it is not there.
        most_bytes: of all files together; the oldest are dropped to make room.
        ledger: where every fate is entered.

    Attributes:
        file_bytes: from this size on a file gets no more.

    Raises:
        BadInput: the folder cannot be used, or another process uses it.
    """

    def __init__(self, directory: Path, most_bytes: int, ledger: Ledger) -> None:
        self._directory = directory
        self._most_bytes = most_bytes
        self.file_bytes = min(FILE_BYTES, max(1, most_bytes // 4))
        self._ledger = ledger
        self._disk = threading.Lock()
        self._memory = threading.Lock()
        self._lock_fd = _locked(directory)
        try:
            self._sizes = _found(directory)
        except OSError as error:
            os.close(self._lock_fd)
            raise _unusable(directory, error) from error
        self._files = deque(self._sizes)
        self._counts: dict[Path, tuple[int, int]] = {}  # spans and traces of the files that this run wrote
        self._next = 1 + max((int(path.stem) for path in self._files if path.stem.isdecimal()), default=0)
        self._written: tuple[Path, int] | None = None  # the file that is written, and its descriptor
        self._closed = False
        self._read: Path | None = None
        self._remaining: deque[EncodedTrace] = deque()

    @property
    def needs_refill(self) -> bool:
        """Whether the traces of a file have all been settled, and there are others, or it is to be deleted."""
        return not self._remaining and bool(self._files or self._read)

    @property
    def size_bytes(self) -> int:
        """The size of all files."""
        return sum(self._sizes.values())

    def append(self, traces: Sequence[EncodedTrace]) -> None:
        """
        Write traces that are entered as ``spooled``; where that fails, they are entered as ``dropped_spool``.

        Raises:
            OSError: the disk does not take them.
        """
        with self._disk:
            try:
                if self._closed:
                    raise OSError("it is closed")
                content = framed(traces)
                self._make_room(len(content))
                self._write(traces, content)
            except Exception:
                self._ledger.move(traces, "dropped_spool", "spooled")
                raise

    def refill(self) -> bool:
        """Delete the file of which all is settled, and read the oldest; whether there are traces to be sent."""
        with self._disk:
            while self.needs_refill:
                self._forget()
                if self._files:
                    self._load(self._files.popleft())
            return bool(self._remaining)

    def peek(self, request: Bounds, scope_bytes: int) -> list[EncodedTrace]:
        """The oldest traces that are in memory, as many as go into a request; none: there are none."""
        with self._memory:
            count = count_leading(self._remaining, request, scope_bytes)
            return list(islice(self._remaining, count))

    def settle(self, count: int, fate: str, rejected_spans: int = 0) -> Sequence[EncodedTrace]:
        """Say what became of the first of the traces that `peek` gave; those that are settled by this."""
        with self._memory:
            settled = [self._remaining.popleft() for _ in range(min(count, len(self._remaining)))]
            settle(self._ledger, settled, fate, "spooled", rejected_spans)
            return settled

    def put_back(self, count: int) -> None:
        """Let the first of the traces that `peek` gave come after the others of their file."""
        with self._memory:
            self._remaining.rotate(-count)

    def close(self) -> None:
        """Leave on disk what is not settled, and nothing else; more calls of `settle` do nothing."""
        with self._disk:
            if self._closed:
                return
            self._closed = True
            with self._memory:
                left = list(self._remaining)
                self._remaining.clear()
            self._files.clear()
            self._finish_writing()
            try:
                self._leave(left)
            finally:
                os.close(self._lock_fd)

    def _leave(self, traces: Sequence[EncodedTrace]) -> None:
        """Have the file that is read hold these, and no others."""
        if not traces:
            self._forget()
        elif self._read:
            beside = self._read.with_suffix(_BESIDE)
            beside.write_bytes(framed(traces))
            beside.replace(self._read)
            self._read = None

    def _write(self, traces: Sequence[EncodedTrace], content: bytes) -> None:
        path, descriptor = self._written or self._begin()
        size_bytes = self._sizes[path]
        try:
            _write_all(descriptor, content)
        except OSError:
            os.ftruncate(descriptor, size_bytes)
            raise
        spans, count = self._counts[path]
        self._counts[path] = spans + sum(trace.span_count for trace in traces), count + len(traces)
        self._sizes[path] = size_bytes + len(content)
        if self._sizes[path] >= self.file_bytes:
            self._finish_writing()

    def _begin(self) -> tuple[Path, int]:
        path = self._directory / f"{self._next:012}{_SUFFIX}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._next += 1
        self._files.append(path)
        self._sizes[path], self._counts[path] = 0, (0, 0)
        self._written = path, descriptor
        return self._written

    def _finish_writing(self) -> None:
        written, self._written = self._written, None
        if written:
            with contextlib.suppress(OSError):  # nothing was left to be written
                os.close(written[1])

    def _load(self, path: Path) -> None:
        """Read a file, so that its traces are the next to be sent."""
        if self._written and self._written[0] == path:
            self._finish_writing()
        self._read = path
        traces = self._content(path)
        with self._memory:
            self._remaining.extend(traces)

    def _content(self, path: Path) -> list[EncodedTrace]:
        """The traces of a file, entered as ``spooled`` if they are not yet; those that cannot be read, as lost."""
        try:
            traces, damage = read_frames(path.read_bytes())
        except OSError as error:
            traces, damage = [], str(error.strerror)
        if damage:
            _logger.warning("spool file %s is %s: %d traces before that are sent", path, damage, len(traces))
        spans = sum(trace.span_count for trace in traces)
        if path not in self._counts:
            self._ledger.move(traces, "spooled", "restored")
        else:
            known_spans, known = self._counts[path]
            self._ledger.move_counts(known_spans - spans, known - len(traces), "dropped_spool", "spooled")
        return traces

    def _forget(self) -> None:
        path, self._read = self._read, None
        if path:
            self._delete(path)

    def _make_room(self, needed_bytes: int) -> None:
        """Drop the oldest files until so much more fits, but not the one that is being sent."""
        kept_bytes = self._sizes[self._read] if self._read else 0
        if kept_bytes + needed_bytes > self._most_bytes:
            raise OSError(f"{needed_bytes} bytes more do not fit into the {self._most_bytes} that it may take")
        while self.size_bytes + needed_bytes > self._most_bytes:
            path = self._files.popleft()
            if self._written and self._written[0] == path:
                self._finish_writing()
            self._ledger.move(self._content(path), "dropped_spool", "spooled")
            self._delete(path)

    def _delete(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            _logger.warning("spool file %s cannot be deleted, the next run sends it again: %s", path, error.strerror)
        self._sizes.pop(path, None)
        self._counts.pop(path, None)


def _found(directory: Path) -> dict[Path, int]:
    """The files that another run has left, oldest first, and their sizes."""
    for unfinished in directory.glob(f"*{_BESIDE}"):
        unfinished.unlink(missing_ok=True)
    return {path: path.stat().st_size for path in sorted(directory.glob(f"*{_SUFFIX}"))}


def _unusable(directory: Path, error: OSError) -> BadInput:
    return BadInput(f"spool {directory}: {error.strerror}: name a folder that can be written")


def _locked(directory: Path) -> int:
    """A descriptor that holds the lock on the folder as long as it is open, or this process runs."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(directory, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise BadInput(f"spool {directory} is used by another otel-qemu: name another folder") from None
    return descriptor


def _write_all(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]
