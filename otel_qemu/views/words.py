# SPDX-License-Identifier: Apache-2.0
"""
Statuses, results, joins, durations and sizes as text; and strangers' names made safe to print.
"""

import errno
from collections.abc import Iterable
from typing import Any

from otel_qemu.events import RETURN_UNKNOWN, Ending, RbdOperation
from otel_qemu.trace.names import Disk
from otel_qemu.trace.scsi import SENSE_KEYS, status_name
from otel_qemu.trace.traces import Join

LONGEST_NAME = 32
"""Characters of a name that are shown; libvirt and Ceph allow far more than a line holds."""

# From the rule that proves most to the one that proves least.
_STRENGTH = (Join.WALK_RANGE, Join.WALK, Join.RANGE, Join.TIME)

_UNITS = (("µs", 1e-6), ("ms", 1e-3), ("s", 1.0))
_SIZES = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))


def printable(text: str) -> str:
    """A name with all that could move the cursor, change colours or turn the line around escaped, and not too long."""
    safe = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return safe if len(safe) <= LONGEST_NAME else safe[: LONGEST_NAME - 1] + "…"


def image_name(disk: Disk) -> str | None:
    """``pool/image``, as much of it as is known."""
    return "/".join(part for part in (disk.pool, disk.image) if part) or None


def rbd_function(code: int) -> str:
    """``rbd.aio_write``: the name of a call's span."""
    known = code in list(RbdOperation)
    return f"rbd.aio_{RbdOperation(code).name.lower()}" if known else f"rbd.operation_{code}"


def weakest_join(joins: Iterable[int]) -> Join | None:
    """The join of a request: that of its least certain call; None without calls."""
    return max(map(Join, joins), key=_STRENGTH.index, default=None)


def request_status(request: Any) -> str:
    """``GOOD``, ``CHECK_CONDITION``, ... of a completed request (a row of dtype `REQUEST`), else how it ended."""
    ending = int(request["ending"])
    if ending == Ending.COMPLETED:
        return status_name(int(request["status"]))
    return Ending(ending).name if ending in list(Ending) else f"ending {ending}"


def sense_text(request: Any) -> str:
    """``MEDIUM_ERROR 0x11/0x00``: sense key, additional sense code and its qualifier."""
    key = int(request["sense_key"])
    name = SENSE_KEYS[key] if key < len(SENSE_KEYS) else f"0x{key:x}"
    return f"{name} 0x{int(request['asc']):02x}/0x{int(request['ascq']):02x}"


def result_text(return_value: int) -> str:
    """``4096``, ``-EIO``; ``?`` when it was not seen."""
    if return_value == RETURN_UNKNOWN:
        return "?"
    name = errno.errorcode.get(-return_value)
    return f"-{name}" if name else str(return_value)


def unit_for(duration_s: float) -> tuple[str, float]:
    """The unit to show a duration in, and its length in s: µs below 1 ms, ms below 1 s, s."""
    return next((unit for unit in _UNITS if abs(duration_s) < 1e3 * unit[1]), _UNITS[-1])


def duration_text(duration_s: float) -> str:
    """Three significant digits in the unit that suits: ``412 µs``, ``1.25 s``."""
    # By what is printed, so that 999.9 µs become 1 ms and not 1000 µs.
    name, unit_s = unit_for(float(f"{duration_s:.3g}"))
    value = duration_s / unit_s
    return f"{value:.3g} {name}" if abs(value) < 999.5 else f"{value:.0f} {name}"


def size_text(size_bytes: int) -> str:
    """``4 KiB``, ``1.5 MiB``, ``513 B``: exact, or in bytes."""
    for name, unit_bytes in _SIZES:
        if size_bytes >= unit_bytes and size_bytes * 10 % unit_bytes == 0:
            return f"{size_bytes / unit_bytes:g} {name}"
    return f"{size_bytes} B"
