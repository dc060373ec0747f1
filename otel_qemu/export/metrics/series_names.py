# SPDX-License-Identifier: Apache-2.0
"""
What the kernel's counts are called: a disk's counts of one operation into the series that they are part of.
"""

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

from otel_qemu.events import Layer
from otel_qemu.export import semconv
from otel_qemu.export.text import printable
from otel_qemu.trace import scsi
from otel_qemu.trace.names import Disk, Guest, Names

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


def kernel_series(key: Iterable[int], names: Names, resource_of: Callable[[Guest], bytes]) -> dict[str, SeriesName]:
    """
    The series of which one of the kernel's histogram entries is a part.

    Args:
        key: of the entry, as `kernel_histograms.SERIES` has it: device, process id, layer, operation, failed.
        names: of the guest and its disk.
        resource_of: whose a guest's series are.

    Returns:
        By field of `kernel_histograms.LATENCY`; ``bytes`` only of reads and writes.
    """
    device, pid, *counted = key
    disk = names.devices.get((pid, device))
    pool = disk.pool if disk else None
    return _series(resource_of(names.guest(pid)), disk_attributes(disk, device), pool, *counted)


@functools.lru_cache(maxsize=16_384)
def _series(
    resource: bytes, on: Attributes, pool: str | None, layer: int, code: int, failed: int
) -> dict[str, SeriesName]:
    scsi_layer = layer == Layer.SCSI
    direction, operation = _scsi(code) if scsi_layer else _rbd(code)
    within = on if scsi_layer else on + _known({semconv.RBD_POOL: pool})
    of = _known({semconv.DISK_IO_DIRECTION: direction})
    error = ((semconv.ERROR_TYPE, semconv.OTHER),) if failed else ()  # the kernel counts that, not what
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
