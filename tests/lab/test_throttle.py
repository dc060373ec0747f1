# SPDX-License-Identifier: Apache-2.0
"""The effect this project exists to show: with <iotune>, the time is spent above librbd, and both layers are seen."""

import json

from tests.lab.disk import Disk
from tests.lab.lab import Lab
from tests.lab.tracing import Tracing

LIMIT_BYTES_PER_S = 20_000_000
EIGHT_WRITERS = (
    "for part in 0 1 2 3 4 5 6 7; do"
    " dd if=/dev/zero of=/dev/sda bs=1M count=8 seek=$((part * 8)) oflag=direct & done; wait"
)


def test_throttling_shows_as_wait_above_librbd(lab: Lab) -> None:
    """
    At 20 MB/s, 1 MiB writes wait above librbd for at least five times as long as librbd takes, on average.

    Eight at a time: one by one, the guest's own time between two of them would refill the bucket on a slow machine.
    """
    disk = Disk("throttled", size_mib=128, bytes_per_s=LIMIT_BYTES_PER_S)
    guest = lab.guest("throttled", disks=[disk])
    with Tracing("hist", "--json", "--domain", "throttled") as tracing:
        guest.run(EIGHT_WRITERS)
        assert tracing.stop() == 0
    guest.destroy()

    rows = [json.loads(line) for line in tracing.stdout.splitlines()]
    mean_s = {row["layer"]: row["sum_s"] / row["count"] for row in rows if "write" in row["operation"].lower()}
    assert {"scsi", "rbd", "wait"} <= mean_s.keys()
    assert mean_s["wait"] >= 5 * mean_s["rbd"]
    assert mean_s["scsi"] >= mean_s["wait"]
    for row in rows:
        assert sum(row["counts"]) == row["count"]
        assert len(row["counts"]) == len(row["bounds_s"]) + 1
