# SPDX-License-Identifier: Apache-2.0
"""CPU time of other processes."""

import time
from pathlib import Path

_CPUCLOCK_SCHED = 2


def process_ns(pid: int) -> int:
    """CPU time of a process in ns, user and system, of all its threads that ever were (clock_getcpuclockid(3))."""
    return time.clock_gettime_ns((~pid << 3) | _CPUCLOCK_SCHED)


def vcpu_ns(pid: int) -> int:
    """CPU time of a QEMU's virtual CPUs in ns; they run as long as it does."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().startswith("CPU "):
            total += int((task / "schedstat").read_text().split()[0])
    return total
