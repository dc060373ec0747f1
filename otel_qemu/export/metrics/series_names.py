# SPDX-License-Identifier: Apache-2.0
"""
What the kernel's counts are called: a disk's counts of one operation into the series that they are part of.
"""

import functools
from typing import NamedTuple

from otel_qemu.events import Layer
from otel_qemu.export import semconv
from otel_qemu.export.text import printable
from otel_qemu.trace import scsi
from otel_qemu.trace.names import Disk

Attributes = tuple[tuple[str, str], ...]


class SeriesName(NamedTuple):
    """
    What tells one series from all others.

    Attributes:
        resource: a serialised ``ResourceMetrics`` with nothing but whose it is.
        instrument: `instruments.INSTRUMENTS` has it.
        attributes: in the order of the instrument's.
    """

    resource: bytes
    instrument: str
    attributes: Attributes


class Counted(NamedTuple):
    """The key of one of the kernel's histogram entries: `kernel_histograms.SERIES` without the process."""

    layer: int
    operation: int
    failed: bool


def disk_attributes(disk: Disk | None, device: int) -> Attributes:
    """
    Alias and target of a disk, as far as they are known.

    Args:
        disk: as `Names` knows it, if at all.
        device: SCSIDevice *; names that are made of it are none.
    """
    if disk is None or disk.alias == f"0x{device:x}":
        return ()
    return _known({semconv.DISK_ALIAS: disk.alias, semconv.DISK_TARGET: disk.target})


@functools.lru_cache(maxsize=16_384)
def series_of(resource: bytes, counted: Counted, on: Attributes, pool: str | None) -> dict[str, SeriesName]:
    """
    The series of which one of the kernel's histogram entries is a part.

    Args:
        resource: the guest's.
        counted: what it is of.
        on: the disk's `disk_attributes`.
        pool: the RBD pool of the disk.

    Returns:
        By field of `kernel_histograms.LATENCY`; ``bytes`` only of reads and writes.
    """
    scsi_layer = counted.layer == Layer.SCSI
    direction, operation = _scsi(counted.operation) if scsi_layer else _rbd(counted.operation)
    within = on if scsi_layer else on + _known({semconv.RBD_POOL: pool})
    of = _known({semconv.DISK_IO_DIRECTION: direction})
    error = ((semconv.ERROR_TYPE, semconv.OTHER),) if counted.failed else ()  # the kernel counts that, not what
    names = {}
    for part, instrument in (_SCSI_PARTS if scsi_layer else _RBD_PARTS).items():
        names[part] = SeriesName(resource, instrument, within + operation + of + error)
    if direction:
        names["bytes"] = SeriesName(resource, semconv.SCSI_IO if scsi_layer else semconv.RBD_IO, within + of)
    return names


_SCSI_PARTS = {
    "duration": semconv.SCSI_REQUEST_DURATION,
    "wait": semconv.BLOCK_WAIT_METRIC,
    "completion": semconv.BLOCK_COMPLETION_METRIC,
}
_RBD_PARTS = {"duration": semconv.RBD_OPERATION_DURATION}


def _scsi(opcode: int) -> tuple[str | None, Attributes]:
    name = scsi.OPERATIONS[scsi.CODES[opcode]]
    direction = "read" if name in scsi.READS else "write" if name in scsi.WRITES else None
    return direction, ((semconv.SCSI_OPERATION_NAME, name),)


def _rbd(operation: int) -> tuple[str | None, Attributes]:
    name = semconv.RBD_OPERATIONS.get(operation, "other")
    return semconv.RBD_DIRECTIONS.get(operation), ((semconv.RBD_OPERATION_NAME, name),)


def _known(texts: dict[str, str | None]) -> Attributes:
    return tuple((key, printable(text)) for key, text in texts.items() if text)
