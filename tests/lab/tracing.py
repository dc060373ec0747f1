# SPDX-License-Identifier: Apache-2.0
"""
The product under test as a user runs it: the installed command, in a process of its own.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests import children

COMMAND = str(Path(sysconfig.get_path("scripts")) / "otel-qemu")


def otel_qemu(*arguments: str, timeout_s: float = 120, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, whatever its exit status."""
    line = [COMMAND, *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=timeout_s, check=False, **options)


def traces_of(recording: Path) -> list[dict[str, Any]]:
    """A recording's traces, as ``replay --json`` prints them."""
    done = otel_qemu("replay", str(recording), "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


class Tracing:
    """
    A command that traces until `stop`; inside the context, its probes are attached.
    """

    def __init__(self, *arguments: str, env: dict[str, str] | None = None) -> None:
        self._arguments = arguments
        self._env = env
        self.stdout = ""
        self.stderr = ""

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            # SIGINT is to end it, also where it is ignored here, as under nohup.
            ["env", "--default-signal=INT", COMMAND, *self._arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._env,
        )
        self._await_line("tracing ")
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self, number: int = signal.SIGINT, timeout_s: float = 120) -> int:
        """Send a signal, take what it has printed, and give its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            stdout, stderr = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            stdout, stderr = self.process.communicate(timeout=children.KILL_TIMEOUT_S)
            raise AssertionError(f"did not stop in {timeout_s} s: {self.stderr}{stderr}") from None
        self.stdout += stdout
        self.stderr += stderr
        return self.process.returncode

    def _await_line(self, beginning: str, timeout_s: float = 120) -> None:
        deadline = time.monotonic() + timeout_s
        assert self.process.stderr is not None
        # Read past the stream's own buffer: a line that lay there would not be seen by `select`.
        fd, said = self.process.stderr.fileno(), b""
        while time.monotonic() < deadline:
            if select.select([fd], [], [], 1)[0]:
                part = os.read(fd, 1 << 16)
                said += part
                self.stderr = said.decode(errors="replace")
                if any(line.startswith(beginning) for line in self.stderr.splitlines()):
                    return
                if not part:
                    break
        self.process.kill()
        _, rest = self.process.communicate(timeout=children.KILL_TIMEOUT_S)
        raise AssertionError(f"no line {beginning!r} from {sys.argv[0]} in {timeout_s} s:\n{self.stderr}{rest}")
