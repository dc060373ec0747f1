# SPDX-License-Identifier: Apache-2.0
"""The two scripts of ``bench/bt``, running."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

SCRIPTS = tuple(sorted((Path(__file__).parent / "bt").glob("*.bt")))
_START_S = 30.0


class NoBpftrace(Exception):
    """bpftrace cannot be run."""


class Bpftrace:
    """A context manager: both scripts trace one process, and print into files; the value is their process ids."""

    def __init__(self, pid: int, folder: Path) -> None:
        self._pid = pid
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> list[int]:
        if not shutil.which("bpftrace"):
            raise NoBpftrace("no bpftrace: apt-get install bpftrace")
        try:
            for script in SCRIPTS:
                self._start(script)
        except BaseException:
            self._stop()
            raise
        return [process.pid for process in self._running]

    def __exit__(self, kind: object, *_: object) -> None:
        self._stop()
        if not kind and not all(map(counted, self._outputs())):
            raise NoBpftrace("a script of bpftrace counted nothing: run it by hand to see why")

    def _outputs(self) -> list[str]:
        return [(self._folder / f"{script.stem}.out").read_text() for script in SCRIPTS]

    def _start(self, script: Path) -> None:
        with open(self._folder / f"{script.stem}.out", "wb") as out:
            process = self._run(script, out)
        self._running.append(process)
        deadline = time.monotonic() + _START_S
        while not is_attached(_descriptors(process.pid), script.read_text()):
            if process.poll() is not None or time.monotonic() > deadline:
                raise NoBpftrace(f"bpftrace does not attach {script.name}: run it by hand to see why")
            time.sleep(0.05)

    def _run(self, script: Path, out: IO[bytes]) -> subprocess.Popen[bytes]:
        # It prints its counts at SIGINT, which is ignored where we are started by nohup or in the background.
        line = ["env", "--default-signal=INT", "bpftrace", str(script), str(self._pid)]
        return subprocess.Popen(line, stdout=out, stderr=subprocess.DEVNULL)

    def _stop(self) -> None:
        for process in self._running:
            process.send_signal(signal.SIGINT)
        for process in self._running:
            process.wait(_START_S)
        self._running.clear()


def is_attached(descriptors: Sequence[str], script: str) -> bool:
    """Whether a bpftrace with these descriptors has a perf event for every uprobe of its script, beside one a CPU."""
    wanted = script.count("uprobe:") + (os.cpu_count() or 1)
    return sum("perf_event" in name for name in descriptors) >= wanted


def counted(output: str) -> int:
    """The number in the line ``@NAME_count: NUMBER`` that bpftrace prints at its end; 0: there is none."""
    found = re.search(r"^@\w+_count: (\d+)$", output, re.M)
    return int(found[1]) if found else 0


def _descriptors(pid: int) -> list[str]:
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(os.readlink(entry))
        except FileNotFoundError:
            continue  # closed since
    return found
