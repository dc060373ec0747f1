# SPDX-License-Identifier: Apache-2.0
"""
Loads in a guest: fio, with the number of requests it says it made, and a plain dd.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from tests.lab.errors import GuestError
from tests.lab.guest import Guest


@dataclass(frozen=True)
class FioCounts:
    """
    How many requests of each kind fio says it completed in one job.
    """

    reads: int
    writes: int
    trims: int
    syncs: int


def run_fio(guest: Guest, options: str, timeout_s: float = 120, beside: Sequence[str] = ()) -> dict[str, FioCounts]:
    """Run ``fio OPTIONS`` in a guest, and other commands beside it; gives fio's counts by job name."""
    # Every command's failure has to show, and a plain `wait` would forget it.
    before = "".join(f'{command} >&2 & others="$others $!"\n' for command in beside)
    after = 'status=$?\nfor other in $others; do wait "$other" || status=1; done\nexit $status'
    printed = guest.run(f"{before}fio --output-format=json {options}\n{after}", timeout_s)
    # fio prints its notes before the JSON.
    report = json.loads(printed[printed.index("{") :])
    counts = {}
    for job in report["jobs"]:
        if job["error"]:
            raise GuestError(f"fio error {job['error']}, job {job['jobname']} in guest {guest.name}", printed)
        kinds = (job[kind]["total_ios"] for kind in ("read", "write", "trim", "sync"))
        counts[job["jobname"]] = FioCounts(*kinds)
    return counts


def fio_random(
    guest: Guest,
    device: str,
    rw: str = "randrw",
    block_bytes: int | str = 4096,
    iodepth: int = 32,
    runtime_s: float | None = None,
    requests: int | None = None,
    options: str = "",
    timeout_s: float = 120,
) -> FioCounts:
    """
    A random load on one disk; gives the number of requests fio made, for a time or up to a number.

    `block_bytes` may be fio's range, ``"4k-256k"``; `options` are any more of fio's own, as ``"--fsync=64"``.
    """
    length = f"--runtime={runtime_s}s --time_based=1" if runtime_s else f"--number_ios={requests or 1000}"
    job = f"--name={device} --filename=/dev/{device} --rw={rw} --direct=1 --ioengine=libaio --iodepth={iodepth}"
    size = f"--bsrange={block_bytes}" if isinstance(block_bytes, str) else f"--bs={block_bytes}"
    return run_fio(guest, f"{job} {size} {length} {options}", timeout_s)[device]


def dd_write(guest: Guest, device: str, mib: int, direct: bool = False, timeout_s: float = 120) -> None:
    """Write zeroes with dd, flushed at the end; unless `direct`, the page cache cuts them as it likes."""
    flags = "oflag=direct conv=fsync" if direct else "conv=fsync"
    guest.run(f"dd if=/dev/zero of=/dev/{device} bs=1M count={mib} {flags}", timeout_s)
