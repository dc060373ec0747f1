# SPDX-License-Identifier: Apache-2.0
"""
Two independent counts of a disk's requests: QEMU's (query-blockstats), the guest's (/sys/block/*/stat).

Both can be subtracted, since only what happened between two moments is of interest.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

SECTOR_BYTES = 512


@dataclass(frozen=True)
class _Counts:
    def __sub__(self, earlier: Self) -> Self:
        return type(self)(*(getattr(self, field.name) - getattr(earlier, field.name) for field in fields(self)))


@dataclass(frozen=True)
class BlockCounts(_Counts):
    """
    What QEMU accounted to one disk.
    """

    reads: int
    writes: int
    flushes: int
    unmaps: int
    read_bytes: int
    write_bytes: int
    unmap_bytes: int
    failed_reads: int
    failed_writes: int
    failed_flushes: int
    failed_unmaps: int

    @classmethod
    def of(cls, stats: dict[str, Any]) -> BlockCounts:
        """The counts in the ``stats`` of one entry of query-blockstats."""
        return cls(
            reads=stats["rd_operations"],
            writes=stats["wr_operations"],
            flushes=stats["flush_operations"],
            unmaps=stats["unmap_operations"],
            read_bytes=stats["rd_bytes"],
            write_bytes=stats["wr_bytes"],
            unmap_bytes=stats["unmap_bytes"],
            failed_reads=stats["failed_rd_operations"],
            failed_writes=stats["failed_wr_operations"],
            failed_flushes=stats["failed_flush_operations"],
            failed_unmaps=stats["failed_unmap_operations"],
        )


@dataclass(frozen=True)
class GuestCounts(_Counts):
    """
    What the guest's kernel counted for one disk; see the kernel's Documentation/block/stat.rst.

    The kernel counts a flush twice, as itself and as the empty write that brought it; `writes` leaves those out.
    """

    reads: int
    writes: int
    flushes: int
    discards: int
    read_bytes: int
    write_bytes: int
    discard_bytes: int
    merges: int

    @classmethod
    def of(cls, line: str) -> GuestCounts:
        """The counts in a line of /sys/block/*/stat."""
        field = [int(text) for text in line.split()]
        return cls(
            reads=field[0],
            writes=field[4] - field[15],
            flushes=field[15],
            discards=field[11],
            read_bytes=field[2] * SECTOR_BYTES,
            write_bytes=field[6] * SECTOR_BYTES,
            discard_bytes=field[13] * SECTOR_BYTES,
            merges=field[1] + field[5] + field[12],
        )
