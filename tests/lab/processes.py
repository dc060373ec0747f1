# SPDX-License-Identifier: Apache-2.0
"""
Start daemons and stop exactly those again.

A process is ours when its pid and start time are the recorded ones, or when its arguments hold both the
daemon's name and a path of this lab's (the token): so one is found that the lab had no time to record.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests import children
from tests.lab.errors import LabError
from tests.lab.state import Process, State

PROC = Path("/proc")


def start_ticks(pid: int) -> int:
    """Start time of a process in clock ticks since boot; 0 when there is none, or only a zombie."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def start(state: State, key: str, command: Sequence[str], token: str, log: Path) -> Process:
    """Start a daemon in a session of its own, so that a terminal's Ctrl-C does not reach it."""
    process = state.processes[key] = Process(key, token)
    state.save()
    with log.open("ab") as out:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    process.pid, process.start_ticks = child.pid, start_ticks(child.pid)
    state.save()
    _children[child.pid] = child
    return process


# Our own children, kept so that they can be waited for; those of an earlier run belong to init.
_children: dict[int, subprocess.Popen[bytes]] = {}


def stop(state: State, key: str, timeout_s: float = 60) -> None:
    """End a daemon, politely first, wait for its end, and forget it."""
    process = state.processes.get(key)
    if process is None:
        return
    if is_alive(process):
        end(process.pid, timeout_s)
    end_all(process.name, process.token, timeout_s)
    del state.processes[key]
    state.save()


def end_all(name: str, token: str, timeout_s: float = 60) -> None:
    """End every process that has both the program's name and the token among its arguments."""
    for entry in PROC.iterdir():
        if entry.name.isdigit() and _is_run_by(entry, name, token):
            end(int(entry.name), timeout_s)


def end(pid: int, timeout_s: float) -> None:
    """Terminate a process and wait for its end; kill it if it does not go."""
    with contextlib.suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        try:
            children.end_by_pidfd(fd, timeout_s)
        finally:
            os.close(fd)
    if child := _children.pop(pid, None):
        children.end(child, polite_s=0)


def is_alive(process: Process) -> bool:
    """Whether the recorded process still runs."""
    return bool(process.pid) and start_ticks(process.pid) == process.start_ticks


def check_alive(process: Process, log: Path) -> None:
    """Raise with the end of its log when a daemon has ended by itself."""
    if not is_alive(process):
        raise LabError(f"{process.name} ended by itself, log {log}: see what it said\n{children.log_tail(log)}")


def _is_run_by(entry: Path, name: str, token: str) -> bool:
    try:
        arguments = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    return token in arguments and name in (Path(argument).name for argument in arguments)
