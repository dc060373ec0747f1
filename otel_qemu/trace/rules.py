# SPDX-License-Identifier: Apache-2.0
"""
When a librbd call can belong to a SCSI request: direction, byte range, time, image.

They check every join that the kernel's pointer walk made, and stand in for it where it was not possible.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_qemu.events import RbdOperation
from otel_qemu.trace import scsi
from otel_qemu.trace.arrays.columns import TableLike
from otel_qemu.trace.decode import byte_ranges, is_data

Mask = NDArray[np.bool_]

# What QEMU's block layer makes of each command: a WRITE of zeroes may become write_zeroes or discard (detect-zeroes),
# a write with FUA is followed by a flush, and copy-on-write or a cluster allocation reads and writes for a write.  A
# format such as qcow2 reads, writes and flushes tables of its own for whatever changes them.
_CHILDREN = {
    "READ": (RbdOperation.READ,),
    "WRITE": tuple(RbdOperation),
    "WRITE_AND_VERIFY": tuple(RbdOperation),
    "VERIFY": (RbdOperation.READ,),
    "SYNCHRONIZE_CACHE": (RbdOperation.FLUSH, RbdOperation.WRITE),
    "UNMAP": tuple(RbdOperation),
    "WRITE_SAME": tuple(RbdOperation),
    "COMPARE_AND_WRITE": (RbdOperation.READ, RbdOperation.WRITE),
    "FORMAT_UNIT": (RbdOperation.WRITE_ZEROES, RbdOperation.WRITE),
}

DIRECT = {
    "READ": (RbdOperation.READ,),
    "WRITE": (RbdOperation.WRITE, RbdOperation.WRITE_ZEROES, RbdOperation.FLUSH),
    "WRITE_AND_VERIFY": (RbdOperation.WRITE, RbdOperation.FLUSH),
    "SYNCHRONIZE_CACHE": (RbdOperation.FLUSH,),
    "UNMAP": (RbdOperation.DISCARD,),
    "WRITE_SAME": (RbdOperation.WRITE_ZEROES, RbdOperation.WRITE),
}
"""The calls a request makes by itself, the usual one first; where there was no walk, nothing else is believed."""


# Whether a request's operation may lead to a call's.
_MATRIX = np.zeros((len(scsi.OPERATIONS), 256), dtype=bool)
for _name, _children in _CHILDREN.items():
    _MATRIX[scsi.operation_code(_name), list(_children)] = True

# Operations of requests, by a call's and by whether both have a byte range.
_DIRECT_OF: defaultdict[tuple[int, bool], list[int]] = defaultdict(list)
for _name, _children in DIRECT.items():
    for _call in _children:
        _ranged = _name in (*scsi.READS, *scsi.WRITES) and _call is not RbdOperation.FLUSH
        _DIRECT_OF[_call, _ranged].append(scsi.operation_code(_name))


def direction_fits(parents: TableLike, calls: TableLike) -> Mask:
    """Whether each request may have led to its call, in any disk format.  Both of shape (n,)."""
    return _MATRIX.reshape(-1).take(parents["operation"].astype("u2") * np.uint16(256) + calls["operation"])


def direct_of(call_operation: int, ranged: bool) -> Sequence[int]:
    """
    Operations of requests that make such a call by themselves on a raw image.

    Args:
        call_operation: `RbdOperation`.
        ranged: whether to give those whose byte range can be compared with the call's, or those without a byte range.
    """
    return _DIRECT_OF.get((call_operation, ranged), ())


def time_fits(parents: TableLike, calls: TableLike) -> Any:
    """Whether each call lies within its request; one that had not ended then has its start within."""
    started = (parents["submit_ns"] <= calls["submit_ns"]) & (calls["submit_ns"] <= parents["complete_ns"])
    return started & (calls["complete_ns"] <= parents["complete_ns"])


def has_range(parents: TableLike, calls: TableLike) -> Any:
    """Whether both sides have a byte range to compare: data requests, and calls other than flushes."""
    return is_data(parents) & (calls["operation"] != RbdOperation.FLUSH)


def range_fits(parents: TableLike, calls: TableLike) -> Any:
    """Whether each call's bytes lie within its request's; an image's own ``offset=`` would shift them."""
    start, end = byte_ranges(parents)
    return (start <= calls["offset"]) & (calls["offset"] + calls["length"] <= end)
