# SPDX-License-Identifier: Apache-2.0
"""
A running fake QEMU.

    with FakeQemu(QEMU_7_2) as qemu:
        qemu.command("read 1000 4096 32")

Commands, each answered when all that it began has ended (`Answer`):

    read|write|flat-read|flat-write COUNT BYTES [DEPTH]   one rbd_aio_readv, _writev, _read, _write each
    fua COUNT               WRITE with FUA: a write, then a flush
    flush COUNT             SYNCHRONIZE CACHE: a flush
    layered COUNT BYTES [DEPTH]   WRITE to a qcow2 image: a write made by a coroutine that helps the request's
    unmap COUNT DESCRIPTORS [DEPTH]   a discard a descriptor, one after the other
    zero COUNT              WRITE SAME: rbd_aio_write_zeroes
    inquiry COUNT           no librbd call; ends inside its own submit
    fail COUNT              librbd gives -EIO, which ends in scsi_req_complete_failed (QEMU 6.0 on)
    check-condition COUNT   librbd gives -EIO, which ends in CHECK CONDITION, ABORTED COMMAND 00/06
    early-fail COUNT        librbd refuses the call; the rest as check-condition
    cancel COUNT            aborted by the guest while in flight
    retry COUNT             a flush fails with -ENOSPC, the guest stops and goes on: submitted again
    retry-data COUNT        the same for a write, which goes on without another submit
    orphan COUNT            reads of a block job: no SCSI request
    hold, release-held      between the two librbd completes nothing, and commands are answered at once
    load PATH               plug the first rbd disk of a QEMU that was started without one
    rate PER_S SECONDS      4 KiB reads and writes in turn, each at its time; PER_S 0: flat out, 32 in flight;
                            ends early when another command is given, such as `stop`
"""

import select
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests import children
from tests.kernel.fake.build import BLOCK_RBD, EXECUTABLE, QEMU_7_2, Variant, built

DEVICE_ALIAS = "scsi0-0-0-3"
"""DeviceState.id of the only disk."""
LUN = 3
"""Of the only disk."""


@dataclass(frozen=True)
class Answer:
    """
    What a command did.

    Attributes:
        requests: SCSI requests that ended.
        calls: rbd_aio_* that were called.
        in_flight: requests and block job calls that had not ended when it was answered.
        strange_returns: since the start, how often a probed function of QEMU would not have returned to its caller.
        elapsed_ns: from the command to its answer.
        cpu_ns: of the whole process in that time, probes included.
        late_ns: of `rate`: how late the latest request was submitted.
    """

    requests: int
    calls: int
    in_flight: int
    strange_returns: int
    elapsed_ns: int
    cpu_ns: int
    late_ns: int = 0


class FakeQemu:
    """A context manager around one process."""

    def __init__(
        self, variant: Variant = QEMU_7_2, *, folder: Path | None = None, inside: Path | None = None,
        wrapper: Sequence[str] = (), rbd: bool = True,
    ) -> None:  # fmt: skip
        """
        Choose what to run; entering starts it.

        Args:
            variant: the build.
            folder: where its binaries are; None for where they were built.
            inside: the same folder as the process sees it, when `wrapper` changes that.
            wrapper: a command that ends in executing the rest of its arguments, such as ``chroot DIR``.
            rbd: whether it loads librbd at its start; else `load_rbd` does.
        """
        self.variant = variant
        self.folder = folder or built(variant)
        seen = inside or self.folder
        self._block_rbd = seen / BLOCK_RBD
        self._command = [*wrapper, str(seen / EXECUTABLE), *([str(self._block_rbd)] if rbd else [])]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "FakeQemu":
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if not self._line():
            children.end(self._process, polite_s=0)
            raise RuntimeError(f"{self._command} did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        children.end(self._running, polite_s=0)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._running.pid

    @property
    def executable(self) -> Path:
        """The binary, as we see it."""
        return self.folder / EXECUTABLE

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._running.poll() is None

    def command(self, text: str) -> Answer:
        """Give a command and wait for its answer."""
        self.begin(text)
        return self.answer()

    def begin(self, text: str) -> None:
        """Give a command; `answer` must follow."""
        assert self._running.stdin
        self._running.stdin.write(text + "\n")
        self._running.stdin.flush()

    def answer(self) -> Answer:
        """Wait for the answer to what was begun."""
        line = self._line()
        status, *fields = line.split()
        if status != "ok":
            raise RuntimeError(f"the fake QEMU says: {line}")
        return Answer(**{name: int(value) for name, _, value in (field.partition("=") for field in fields)})

    @property
    def answered(self) -> bool:
        """Whether `answer` would return at once."""
        assert self._running.stdout
        return bool(select.select([self._running.stdout], [], [], 0)[0])

    def load_rbd(self) -> None:
        """Load the block driver and librbd."""
        self.command(f"load {self._block_rbd}")

    def stop(self) -> Answer:
        """End a `rate` that was begun; returns its answer."""
        self.begin("stop")
        answer = self.answer()
        self.answer()
        return answer

    def kill(self) -> None:
        """End it as the OOM killer would, with everything in flight."""
        self._running.kill()
        self._running.wait(children.KILL_TIMEOUT_S)

    @property
    def _running(self) -> "subprocess.Popen[str]":
        if self._process is None:
            raise RuntimeError("not started: use it in a with statement")
        return self._process

    def _line(self) -> str:
        assert self._running.stdout
        return self._running.stdout.readline().strip()
