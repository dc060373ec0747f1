# SPDX-License-Identifier: Apache-2.0
"""Generated counts of a hypervisor's guests, for what it costs to export them."""

import numpy as np
from numpy.typing import NDArray

from otel_qemu.events import Layer, RbdOperation
from otel_qemu.trace.histograms import DEFAULT_BOUNDS_S
from otel_qemu.trace.kernel_histograms import LATENCY, SERIES
from otel_qemu.trace.names import Disk, Guest, Names

GUESTS, DISKS = 50, 4
FIRST_PID, FIRST_DEVICE = 1000, 0x5500_0000_0000

_SCSI = [0x28, 0x2A, 0x35]  # READ(10), WRITE(10), SYNCHRONIZE CACHE(10)
_RBD = [RbdOperation.READ, RbdOperation.WRITE, RbdOperation.FLUSH]


def names(guests: int = GUESTS, disks: int = DISKS) -> Names:
    """Names of guests, and of this number of disks each."""
    pids = range(FIRST_PID, FIRST_PID + guests)
    known = {pid: Guest(pid, "/usr/bin/qemu-system-x86_64", f"uuid-{pid}", f"guest-{pid}") for pid in pids}
    devices = {
        (pid, FIRST_DEVICE + n): Disk(f"scsi0-0-0-{n}", f"sd{'abcdefgh'[n]}", "rbd", f"image-{pid}-{n}")
        for pid in pids
        for n in range(disks)
    }
    return Names(known, devices)


def tables(pid: int, disks: int, random: np.random.Generator) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """What the kernel has counted of one process: dtypes `SERIES` and `LATENCY`; some reads have failed."""
    keys = [
        (FIRST_DEVICE + disk, pid, layer, operation, failed, 0)
        for disk in range(disks)
        for layer, operations in ((Layer.SCSI, _SCSI), (Layer.RBD, _RBD))
        for operation in operations
        for failed in ((0, 1) if operation == operations[0] else (0,))
    ]
    latencies = np.zeros(len(keys), LATENCY)
    latencies["bytes"] = random.integers(1, 1 << 40, len(keys))
    for part in ("duration", "wait", "completion"):
        shape = len(keys), len(DEFAULT_BOUNDS_S) + 1
        latencies[part]["counts"][:, : shape[1]] = random.integers(0, 1 << 20, shape)
        latencies[part]["sum_ns"] = random.integers(1, 1 << 50, len(keys))
    return np.array(keys, SERIES), latencies
