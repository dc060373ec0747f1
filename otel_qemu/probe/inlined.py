"""
Functions that are probed and never hit, for a compiler has inlined them where it matters.

Found by the kernel's counters, of all traced processes: one end of many requests is seen, and never the other.
"""

from collections.abc import Iterator, Mapping

MANY = 1000
"""Hits of one end; by then the other has been hit too, however many requests were in flight at the start."""

_SCSI_BEGINS = ("scsi_submitted", "scsi_unproven", "scsi_unreadable", "scsi_table_full")
_PAIRS = (
    ("scsi_submitted", ("scsi_completed",), "SCSI requests begin and none ends: scsi_req_complete"),
    ("scsi_unstarted", _SCSI_BEGINS, "SCSI requests end and none begins: scsi_req_enqueue"),
    ("rbd_submitted", ("rbd_completed",), "RBD calls begin and none ends: rbd_aio_release"),
    ("rbd_unstarted", ("rbd_submitted", "rbd_table_full"), "RBD calls end and none begins: rbd_aio_readv and its like"),
)


def inlined_functions(counters: Mapping[str, int]) -> Iterator[str]:
    """
    A sentence for each kind of request of which only one end is seen.

    Args:
        counters: the kernel's, by name (`events.COUNTERS`).
    """
    for seen, never, what in _PAIRS:
        if counters[seen] >= MANY and not any(counters[name] for name in never):
            yield (
                f"{what} is never hit, so this build has inlined it where it is called; "
                "what is shown of that layer is not complete: report it with the output of `otel-qemu check --json`"
            )
