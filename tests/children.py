# SPDX-License-Identifier: Apache-2.0
"""
End a process for certain: politely where one says so, then by force, and never wait without a limit.

`subprocess.Popen` as a context manager waits for ever for a child that ignores its signal; `child` does not.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, AnyStr

KILL_TIMEOUT_S = 60.0
"""How long the kernel may take to end what was killed."""


@contextlib.contextmanager
def child(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a command with text pipes; whatever still runs at the end of the block is killed."""
    process = subprocess.Popen(command, text=True, **options)
    try:
        yield process
    finally:
        end(process, polite_s=0)


def end(process: subprocess.Popen[AnyStr], polite_s: float) -> None:
    """
    Send SIGTERM, after `polite_s` SIGKILL (at once where it is 0), wait for the end, and close the pipes.

    Raises:
        subprocess.TimeoutExpired: it outlived SIGKILL for a minute: it hangs in the kernel.
    """
    if polite_s and process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(polite_s)
    if process.poll() is None:
        process.kill()
    process.wait(KILL_TIMEOUT_S)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):  # what is still in the buffer has no reader
                pipe.close()


def end_by_pidfd(pidfd: int, polite_s: float) -> bool:
    """Do the same to a process that may be another's child; False when it outlives even SIGKILL."""
    # A stopped process would see SIGTERM only after SIGCONT.
    for numbers, timeout_s in (((signal.SIGTERM, signal.SIGCONT), polite_s), ((signal.SIGKILL,), KILL_TIMEOUT_S)):
        for number in numbers:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)
        if wait_end(pidfd, timeout_s):
            return True
    return False


def wait_end(pidfd: int, timeout_s: float) -> bool:
    """Wait for the end of a process; False when it outlives the timeout."""
    return bool(select.select([pidfd], [], [], timeout_s)[0])


def join(thread: threading.Thread, timeout_s: float = 120) -> None:
    """Wait for the end of a thread, which should be a daemon, lest it hold up the end of the tests."""
    thread.join(timeout_s)
    assert not thread.is_alive(), f"{thread.name} has not ended in {timeout_s:g} s"


def end_group(process: subprocess.Popen[AnyStr]) -> None:
    """Kill a process that leads a group, and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def log_tail(log: Path, lines: int = 20, from_byte: int = 0) -> str:
    """Return the last lines of a log, of what stands behind a position."""
    with log.open(errors="replace") as file:
        file.seek(from_byte)
        return "".join(file.readlines()[-lines:])
