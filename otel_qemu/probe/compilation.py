"""
C into BPF with bcc, which prints to stderr and sometimes ends the process: here all of that becomes one of our errors.

No kernel headers are needed: ``bpf/headers`` holds the few definitions that bcc's prologue uses.  Where a bcc wants
more than these, the headers of the running kernel are tried, if they are installed.
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
    Compile, and set up the maps.

    Args:
        bpf: bcc.BPF.
        source: the program.
        flags: for the compiler.

    Returns:
        The bcc.BPF, and which kernel headers were used: our stand-ins, the running kernel's, or those that the
        environment names.

    Raises:
        NotPossible: with none of them.
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
    """Kernel headers to try, by name: a folder for bcc, or None for those that it finds itself."""
    if chosen := os.environ.get(_CHOICE):
        return [(f"the kernel headers of {_CHOICE}, {chosen}", Path(chosen))]
    return [("the stand-in kernel headers", STAND_INS), ("the installed kernel headers", None)]


@contextlib.contextmanager
def _environment(folder: Path | None) -> Iterator[None]:
    """Point bcc to a folder; what we start later does not inherit that."""
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
    Catch what bcc's libraries print on file descriptor 2; the value is a function that gives it.

    What another thread says meanwhile is caught too, and not shown: so it is for single calls alone.
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
