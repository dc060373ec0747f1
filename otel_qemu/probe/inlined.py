# SPDX-License-Identifier: Apache-2.0
"""
Find probed functions that are never hit, because the compiler has inlined them into their callers.

The kernel's counters show it: many requests begin and none ends, or many end and none begins.
"""

from collections.abc import Iterator, Mapping

MANY = 1000
"""This many hits of one end without any of the other; requests in flight at the start explain fewer."""

_SCSI_BEGINS = ("scsi_submitted", "scsi_unproven", "scsi_unreadable", "scsi_table_full")
_PAIRS = (
    ("scsi_submitted", ("scsi_completed",), "SCSI requests begin and none ends: scsi_req_complete"),
    ("scsi_unstarted", _SCSI_BEGINS, "SCSI requests end and none begins: scsi_req_enqueue"),
    ("rbd_submitted", ("rbd_completed",), "RBD calls begin and none ends: rbd_aio_release"),
    ("rbd_unstarted", ("rbd_submitted", "rbd_table_full"), "RBD calls end and none begins: rbd_aio_readv and its like"),
)


def inlined_functions(counters: Mapping[str, int]) -> Iterator[str]:
    """
    Yield a warning for each of SCSI requests and RBD calls of which only one end is seen.

    Args:
        counters: the kernel's, by name (`events.COUNTERS`).
    """
    for seen, never, finding in _PAIRS:
        if counters[seen] >= MANY and not any(counters[name] for name in never):
            yield (
                f"{finding} is never hit, because this build has inlined it; figures of that layer are "
                "incomplete: report it with the output of `otel-qemu check --json`"
            )
