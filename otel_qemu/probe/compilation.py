# SPDX-License-Identifier: Apache-2.0
"""
Compile the BPF program with bcc.

bcc prints to stderr and sometimes ends the process; here that becomes one of our errors.  No kernel headers are needed:
``bpf/headers`` holds the few definitions that bcc's prologue uses.  If a version of bcc needs more, the installed
headers of the running kernel are tried.
"""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from otel_qemu.errors import NotPossible
from otel_qemu.events import BPF_DIRECTORY

STAND_INS = BPF_DIRECTORY / "headers"
SEE_CHECK = "`otel-qemu check` says what this machine lacks"
_CHOICE = "BCC_KERNEL_SOURCE"


def compiled(bpf: Callable[..., Any], source: bytes, flags: list[str]) -> tuple[Any, str]:
    """
    Compile a program and create its maps.

    Args:
        bpf: bcc.BPF.
        source: the program, as one text.
        flags: for the compiler.

    Returns:
        The bcc.BPF, and the kernel headers that were used, in words: our stand-ins, the running kernel's, or those that
        the environment names.

    Raises:
        NotPossible: the program compiles with none of them.
    """
    complaints: list[str] = []
    for name, folder in _candidates():
        with captured_stderr() as said, _environment(folder):
            try:
                return bpf(text=source, cflags=flags), name
            except (Exception, SystemExit) as error:
                first_line = (said() or str(error)).strip().partition("\n")[0]
                complaints.append(f"with {name}: {first_line}")
    raise NotPossible(f"bcc cannot compile or set up the probes ({'; '.join(complaints)}): {SEE_CHECK}")


def _candidates() -> list[tuple[str, Path | None]]:
    """Return the kernel headers to try: a name, and the folder, or None where bcc finds them itself."""
    if chosen := os.environ.get(_CHOICE):
        return [(f"the kernel headers of {_CHOICE}, {chosen}", Path(chosen))]
    return [("the stand-in kernel headers", STAND_INS), ("the installed kernel headers", None)]


@contextlib.contextmanager
def _environment(folder: Path | None) -> Iterator[None]:
    """Point bcc to a folder by its environment variable, which is restored afterwards."""
    before = os.environ.pop(_CHOICE, None)
    if folder:
        os.environ[_CHOICE] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(_CHOICE, None)
        if before is not None:
            os.environ[_CHOICE] = before


@contextlib.contextmanager
def captured_stderr() -> Iterator[Callable[[], str]]:
    """
    Capture the output of bcc's libraries on file descriptor 2; the value is a function that returns it.

    Output of other threads is captured, too, and lost.  So this must enclose single calls only.
    """
    with tempfile.TemporaryFile() as file:
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield lambda: _contents(file)
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _contents(file: Any) -> str:
    file.seek(0)
    return str(file.read().decode(errors="replace"))
