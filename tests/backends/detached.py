# SPDX-License-Identifier: Apache-2.0
"""
Leave a Jaeger running behind a command, and end it from a later one.

In and out: `jaeger.json` in its folder, with its pid and endpoints.
A process is signalled only after its command line has shown it to be that Jaeger.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tests import children

from .jaeger import Jaeger


@dataclass(frozen=True)
class Running:
    """
    A Jaeger that outlives us, as its file tells it.
    """

    pid: int
    otlp_grpc: str
    otlp_http: str
    query: str
    query_grpc: str
    health: str


def describe(jaeger: Jaeger) -> Running:
    assert jaeger.process is not None
    return Running(
        jaeger.process.pid, jaeger.otlp_grpc, jaeger.otlp_http, jaeger.query, jaeger.query_grpc, jaeger.health
    )


def start(binary: Path, directory: Path, ui: Path | None = None) -> Running:
    """
    Start one that stays when this process ends, and write its file.
    """
    jaeger = Jaeger.start(binary, directory, ui)
    running = describe(jaeger)
    file = _file(directory)
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps(asdict(running), indent=1) + "\n")
    draft.replace(file)
    return running


def find(directory: Path) -> Running | None:
    """
    Return the one that runs in this folder, if any.
    """
    with _held(directory) as held:
        return held[0] if held else None


def stop(directory: Path) -> Running | None:
    """
    End the one that runs in this folder and remove its file; return what was ended, if anything.
    """
    with _held(directory) as held:
        if held:
            children.end_by_pidfd(held[1], Jaeger.stop_timeout_s)
    _file(directory).unlink(missing_ok=True)
    return held[0] if held else None


@contextlib.contextmanager
def _held(directory: Path) -> Iterator[tuple[Running, int] | None]:
    # A pidfd stays with its process: whatever is checked after it was opened is true of what it signals.
    try:
        running = Running(**json.loads(_file(directory).read_text()))
        pidfd = os.pidfd_open(running.pid)
    except (FileNotFoundError, ProcessLookupError):
        yield None
        return
    try:
        yield (running, pidfd) if _is_ours(running.pid, directory) else None
    finally:
        os.close(pidfd)


def _is_ours(pid: int, directory: Path) -> bool:
    config = os.fsencode(directory.resolve() / "jaeger.yaml")
    try:
        return config in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False


def _file(directory: Path) -> Path:
    return directory / "jaeger.json"
