# SPDX-License-Identifier: Apache-2.0
"""
Run a program to its end, within a deadline, and only while its result is wanted.

The readers of debug files take seconds, and the loop waits for them.  Meanwhile it must report that it is alive, and a
signal must end it.
"""

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import IO

from otel_qemu.errors import BadInput

_POLL_S = 0.2

_is_wanted: ContextVar[Callable[[], bool]] = ContextVar("_is_wanted", default=lambda: True)


class Unwanted(BadInput):
    """The result is no longer wanted, because tracing ends."""


@contextlib.contextmanager
def while_wanted(is_wanted: Callable[[], bool]) -> Iterator[None]:
    """Ask `is_wanted` several times a second, while this thread waits for a program; if it returns False, give up."""
    token = _is_wanted.set(is_wanted)
    try:
        yield
    finally:
        _is_wanted.reset(token)


def finished(
    command: Sequence[str], timeout_s: float, stdin: IO[bytes] | int = subprocess.DEVNULL
) -> "subprocess.CompletedProcess[bytes]":
    """
    Run a program to its end, and return its status and output.

    Raises:
        OSError: it cannot be started.
        subprocess.TimeoutExpired: it has not ended in time, and was killed.
        Unwanted: its result is no longer wanted; it was killed, or not started.
    """
    deadline = time.monotonic() + timeout_s
    _require_wanted(command)
    with subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    output = child.communicate(timeout=max(0, min(_POLL_S, deadline - time.monotonic())))
                    return subprocess.CompletedProcess(command, child.returncode, *output)
                _require_wanted(command)
                if time.monotonic() >= deadline:
                    raise subprocess.TimeoutExpired(command, timeout_s)
        except BaseException:
            child.kill()
            raise


def _require_wanted(command: Sequence[str]) -> None:
    if not _is_wanted.get()():
        raise Unwanted(f"{command[0]} is not waited for, because tracing ends")
