# SPDX-License-Identifier: Apache-2.0
"""
Run a daemon, and be the parent of whatever it orphans: ``python3 reaper.py PROGRAM ARGUMENT…``

libvirtd starts each QEMU as an orphan, and waits until an ended one is gone altogether.  Where process 1 is
slow to reap, as in small containers, every start of a guest would take a minute.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from types import FrameType

# linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36


def main(command: list[str]) -> int:
    """Reap until the daemon itself ends; pass a request to terminate on to it."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    daemon = subprocess.Popen(command)

    def pass_on(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(daemon.pid, number)

    signal.signal(signal.SIGTERM, pass_on)
    while True:
        pid, status = os.wait()
        if pid == daemon.pid:
            return os.waitstatus_to_exitcode(status) & 0xFF


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
