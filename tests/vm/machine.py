# SPDX-License-Identifier: Apache-2.0
"""
One virtual machine: a kernel, the archive, one emulated CPU; it runs its load and switches itself off.

    with Machine(kernel, archive, "60 uprobe_multi", folder) as machine:
        report = machine.wait(say)
"""

import json
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.children import end
from tests.lab.errors import LabError
from tests.lab.kernel import Kernel

MEMORY_MIB = 2048
"""The archive is there twice while the kernel unpacks it; compiling takes 300."""
LOOK_S = 1.0
BROKEN = re.compile(r"^.*(?:BUG:|Oops|WARNING:|Call Trace|Kernel panic|general protection).*$", re.M)
"""What a kernel says that is not well."""


@dataclass(frozen=True)
class Report:
    """
    How it went.

    Attributes:
        lines: the objects that the load printed (`load`).
        output: all that it printed.
        broken: lines of the console by which the kernel was not well.
        ended: whether the load ended well and the machine switched itself off.
    """

    lines: list[dict[str, Any]]
    output: str
    broken: list[str]
    ended: bool


class Machine:
    """A context manager around one QEMU, which is killed in the end if it still runs."""

    def __init__(self, kernel: Kernel, archive: Path, load: str, folder: Path) -> None:
        """
        Choose what to boot; entering starts it.

        Args:
            kernel: to boot.
            archive: of `archive.write_archive`.
            load: arguments of `load`.
            folder: for what the two serial ports say.
        """
        self.load = load
        self._console, self._output = folder / "console", folder / "output"
        # An oops is a panic, and a panic the end: nobody waits for a kernel that has lost a thread.  But a CPU that the
        # host lets wait for long is not to be taken for one that is stuck.
        words = [
            "console=ttyS0", "quiet", "mitigations=off", "oops=panic", "panic=-1", "nowatchdog",
            "rcupdate.rcu_cpu_stall_suppress=1", "rdinit=/init", f'load="{load}"',
        ]  # fmt: skip
        self._command = [
            "qemu-system-x86_64", "-machine", "pc", "-accel", "tcg", "-cpu", "max,la57=off", "-smp", "1",
            "-m", str(MEMORY_MIB), "-nodefaults", "-display", "none", "-no-reboot",
            "-kernel", str(kernel.image), "-initrd", str(archive), "-append", " ".join(words),
            "-serial", f"file:{self._console}", "-serial", f"file:{self._output}",
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Machine":
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process
        end(self._process, polite_s=0)

    def wait(self, deadline: float, say: Callable[[str], None]) -> Report:
        """
        Wait for the machine's end.

        Args:
            deadline: of `time.monotonic`.
            say: is called with each line of the load when it comes.

        Raises:
            LabError: it has not ended by then; the text ends with what it said.
        """
        assert self._process
        shown = 0
        while self._process.poll() is None:
            if time.monotonic() > deadline:
                raise LabError(f"the virtual machine did not end, {self.load}\n{self._text(self._output)}")
            time.sleep(LOOK_S)
            lines = self._text(self._output).split("\n")[:-1]  # what follows the last is not whole yet
            for line in lines[shown:]:
                say(line)
            shown = len(lines)
        return self._report()

    def _report(self) -> Report:
        output = self._text(self._output)
        lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        ended = output.endswith("status 0\n") and self._process is not None and self._process.returncode == 0
        return Report(lines, output, BROKEN.findall(self._text(self._console)), ended)

    @staticmethod
    def _text(file: Path) -> str:
        return file.read_text(errors="replace").replace("\r", "") if file.exists() else ""
