# SPDX-License-Identifier: Apache-2.0
"""One of every command of the fake QEMU, and sums over what they gave."""

COMMANDS = {
    "read 211 4096 16": {("scsi", "READ"): 211, ("wait", "READ"): 211, ("rbd", "read"): 211},
    "write 101 5120": {("scsi", "WRITE"): 101, ("wait", "WRITE"): 101, ("rbd", "write"): 101},
    "fua 23": {("scsi", "WRITE"): 23, ("wait", "WRITE"): 23, ("rbd", "write"): 23, ("rbd", "flush"): 23},
    "flush 19": {("scsi", "SYNCHRONIZE_CACHE"): 19, ("wait", "SYNCHRONIZE_CACHE"): 19, ("rbd", "flush"): 19},
    "unmap 23 5": {("scsi", "UNMAP"): 23, ("wait", "UNMAP"): 23, ("rbd", "discard"): 115},
    "zero 17": {("scsi", "WRITE_SAME"): 17, ("wait", "WRITE_SAME"): 17, ("rbd", "write_zeroes"): 17},
    "inquiry 13": {("scsi", "INQUIRY"): 13},
    "check-condition 11": {("scsi", "READ"): 11, ("wait", "READ"): 11, ("rbd", "read"): 11},
    "cancel 7": {("scsi", "READ"): 7, ("wait", "READ"): 7, ("rbd", "read"): 7},
    "orphan 5": {("rbd", "read"): 5},
}
"""What each command adds to the histograms."""


def total(commands: dict[str, dict[tuple[str, str], int]]) -> dict[tuple[str, str], int]:
    """Counts of several commands."""
    keys = {key for counts in commands.values() for key in counts}
    return {key: sum(counts.get(key, 0) for counts in commands.values()) for key in keys}
