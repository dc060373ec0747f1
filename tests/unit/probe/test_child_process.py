# SPDX-License-Identifier: Apache-2.0
"""A program is run to its end, but no longer than its deadline, and no longer than its result is wanted."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from otel_qemu.probe.child_process import Unwanted, finished, while_wanted

LONG_S = 60
SLEEP = [sys.executable, "-c", f"import os, time; print(os.getpid(), flush=True); time.sleep({LONG_S})"]


def is_running(pid: int) -> bool:
    """Whether there is such a process, ended or not, that nobody has waited for."""
    return Path(f"/proc/{pid}").exists()


def children() -> list[int]:
    """The programs that this process runs with our command."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(stat[1]) == os.getpid() and f"time.sleep({LONG_S})" in (entry / "cmdline").read_text():
                found.append(int(entry.name))
    return found


def test_its_status_and_output() -> None:
    """The output is longer than a pipe is wide, and comes over several polls."""
    program = "import sys, time; print('a' * 200000); time.sleep(0.5); print('b', file=sys.stderr); sys.exit(3)"
    done = finished([sys.executable, "-c", program], LONG_S)
    assert (done.returncode, len(done.stdout), done.stderr) == (3, 200001, b"b\n")


def test_after_its_deadline_it_is_killed() -> None:
    pids: list[int] = []

    def is_wanted() -> bool:
        pids.extend(children())
        return True

    with while_wanted(is_wanted), pytest.raises(subprocess.TimeoutExpired):
        finished(SLEEP, 0.5)
    assert pids
    assert not any(map(is_running, pids))


def test_once_it_is_unwanted_it_is_killed() -> None:
    """It is asked for again and again; then the program is ended, and no other one is started."""
    answers = [True, True, True]
    pids: list[int] = []

    def is_wanted() -> bool:
        pids.extend(children())
        return bool(answers and answers.pop())

    with while_wanted(is_wanted):
        with pytest.raises(Unwanted, match="is not waited for, because tracing ends"):
            finished(SLEEP, LONG_S)
        with pytest.raises(Unwanted):
            finished(["/nonexistent"], LONG_S)
    assert pids
    assert not any(map(is_running, pids))
    assert finished(["true"], LONG_S).returncode == 0
