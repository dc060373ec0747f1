# SPDX-License-Identifier: Apache-2.0
"""
Finished traces: SCSI requests, the librbd calls made for them, and the calls that have no request.

Two flat tables instead of objects: a million requests a second are only possible by the column.
"""

from enum import IntEnum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_qemu.trace.arrays import columns
from otel_qemu.trace.arrays.columns import Columns, TableLike, as_columns, as_table
from otel_qemu.trace.arrays.groups import Groups, grouped

Table = columns.Table


class Join(IntEnum):
    """How a call's parent was found, or (from 16 on) why it has none."""

    WALK = 1
    """By the kernel's pointer walk; operation, image and time do not contradict, a byte range does not apply."""
    WALK_RANGE = 2
    """By the walk, and the byte range agrees."""
    RANGE = 3
    """No walk: by process, image, direction, byte range and time."""
    TIME = 4
    """No walk and no byte range: the only request of that kind that was in flight."""
    INTERNAL = 16
    """The walk ended at no SCSI request: a block job's call, or QEMU's own."""
    STARTED_BEFORE = 17
    """Its request was submitted before the probes were attached."""
    PARENT_LOST = 18
    """The walk found its request, but that request's record never came."""
    UNMATCHED = 19
    """No walk was possible, and no request fits by range and time."""

    @property
    def label(self) -> str:
        """As people and other programs read it: ``walk+range``, ``parent_lost``."""
        return "walk+range" if self is Join.WALK_RANGE else self.name.lower()


REQUEST = np.dtype(
    [
        ("pid", "<u4"),
        ("operation", "u1"),  # index into scsi.OPERATIONS
        ("opcode", "u1"),
        ("ending", "u1"),  # events.Ending
        ("kept", "u1"),  # events.Kept: why there is a record
        ("request", "<u8"),  # SCSIRequest *: with pid and submit_ns, the identity
        ("submit_ns", "<u8"),
        ("complete_ns", "<u8"),
        ("device", "<u8"),  # SCSIDevice *: with pid, the key of a disk in Names
        ("lun", "<u2"),
        ("status", "u1"),
        ("host_status", "u1"),
        ("sense_key", "u1"),
        ("asc", "u1"),
        ("ascq", "u1"),
        ("retries", "u1"),
        ("tag", "<u4"),
        ("incomplete", "<u4"),  # 1: records of some of its calls were lost
        ("first_call", "<u4"),  # its calls are calls[first_call : first_call + calls]
        ("calls", "<u4"),
        ("block_bytes", "<u4"),  # logical block size; 0: the command does not tell
        ("unused", "<u4"),
        ("lba", "<u8"),  # in blocks of the device
        ("bytes", "<u8"),  # transferred between guest and disk; of WRITE SAME and UNMAP, only the parameters
        ("wait_ns", "<i8"),  # before and between its calls: QEMU's block layer
        ("rbd_ns", "<i8"),  # union of its calls: Ceph
        ("completion_ns", "<i8"),  # after the last of them
        ("randomness", "<u8"),  # the low 56 bits of its trace id
        ("threshold", "<u8"),  # it was kept because its randomness is not less; 0: whatever its randomness
    ]
)
"""
A finished SCSI request; ``complete_ns - submit_ns == wait_ns + rbd_ns + completion_ns``, exactly.

``randomness`` and ``threshold`` are 0 until it is sampled (OpenTelemetry specification, "TraceState: Probability
Sampling").
"""

CALL = np.dtype(
    [
        ("pid", "<u4"),
        ("operation", "u1"),  # events.RbdOperation
        ("join", "u1"),  # Join
        ("disagrees", "u1"),  # 1: the walk's parent does not fit by image, direction, range or time
        ("kept", "u1"),  # events.Kept: why there is a record
        ("parent", "<i8"),  # index into requests, or -1
        ("request", "<u8"),  # SCSIRequest * that the walk ended at, or 0
        ("device", "<u8"),  # SCSIDevice * of its request, also where that is not in requests; 0: there was none
        ("image", "<u8"),  # rbd_image_t: with pid, the key of an image in Names
        ("submit_ns", "<u8"),
        ("complete_ns", "<u8"),  # 0: had not ended when its request did
        ("offset", "<u8"),
        ("length", "<u8"),
        ("return_value", "<i4"),  # events.RETURN_UNKNOWN when it was not seen
        ("unused", "<u4"),
        ("randomness", "<u8"),  # as of a request, where the call is a trace of its own
        ("threshold", "<u8"),
    ]
)
"""A librbd call; calls of one request are adjacent and in submit order, calls without parent come last."""


class Traces:
    """
    What became whole with one batch.

    Attributes:
        requests: dtype `REQUEST`, in the order of their ends.
        calls: dtype `CALL`.
        by_request, by_call: the same by the column; of the two forms, that which was not given is made when it is
            asked for, and from then on neither follows the other.
        unix_offset_ns: add it to a time here to have Unix time.
    """

    def __init__(self, requests: Table | Columns, calls: Table | Columns, unix_offset_ns: int) -> None:
        """Of tables in either form."""
        self._requests, self._calls = requests, calls
        self.unix_offset_ns = unix_offset_ns

    @cached_property
    def requests(self) -> Table:
        """The requests, as a structured array."""
        return as_table(self._requests)

    @cached_property
    def calls(self) -> Table:
        """The calls, as a structured array."""
        return as_table(self._calls)

    @cached_property
    def by_request(self) -> Columns:
        """The requests, by the column."""
        return as_columns(self._requests)

    @cached_property
    def by_call(self) -> Columns:
        """The calls, by the column."""
        return as_columns(self._calls)

    @cached_property
    def disks(self) -> Groups:
        """The requests by process and SCSIDevice *."""
        return grouped(self.by_request["pid"], self.by_request["device"])

    def calls_of(self, index: int) -> Table:
        """The calls of ``requests[index]``."""
        first = int(self.requests[index]["first_call"])
        return self.calls[first : first + int(self.requests[index]["calls"])]

    def only(self, rows: NDArray[np.intp]) -> "Traces":
        """These requests, in this order, with their calls; the calls without request are left out."""
        requests = self.requests[rows].copy()
        calls = [self.calls_of(int(row)).copy() for row in rows]
        for index, (request, own) in enumerate(zip(requests, calls, strict=True)):
            request["first_call"] = sum(len(before) for before in calls[:index])
            own["parent"] = index
        return Traces(requests, np.concatenate([self.calls[:0], *calls]), self.unix_offset_ns)

    def sampled(
        self, kept: NDArray[np.bool_], randomness: NDArray[np.uint64], thresholds: NDArray[np.uint64]
    ) -> "Traces":
        """
        Some of the traces, in the same order, with what says how probable they were.

        Args:
            kept, randomness, thresholds: of each request, then of each call without one; shape (requests + orphans,).
        """
        requests, calls, count = self.by_request, self.by_call, len(self.by_request)
        if not kept.all():
            own, joined = kept[:count], self.joined
            rows = np.concatenate((own[calls["parent"][:joined]], kept[count:]))
            requests, calls = requests.take(own), calls.take(rows)
            under = calls.between(0, int(np.count_nonzero(rows[:joined])))
            under["parent"] = (np.cumsum(own) - 1)[under["parent"]]
            requests["first_call"] = np.cumsum(requests["calls"]) - requests["calls"]
            randomness, thresholds, count = randomness[kept], thresholds[kept], len(requests)
        alone = calls.between(len(calls) - (len(randomness) - count), len(calls))
        for name, values in (("randomness", randomness), ("threshold", thresholds)):
            requests[name], alone[name] = values[:count], values[count:]
        return Traces(requests, calls, self.unix_offset_ns)

    @cached_property
    def joined(self) -> int:
        """How many calls have a request."""
        return int(self.by_request["calls"].sum(dtype="i8"))

    @property
    def by_orphan(self) -> Columns:
        """The calls that have no request, by the column."""
        return self.by_call.between(self.joined, len(self.by_call))

    @property
    def orphans(self) -> Table:
        """The calls that have no request."""
        return self.calls[int(self.requests["calls"].sum()) :]


def durations_ns(table: TableLike) -> Any:
    """Duration of each request or call in ns, shape (n,), int64; 0 for a call that had not ended."""
    ended = table["complete_ns"].astype("i8")
    return np.where(ended > 0, ended - table["submit_ns"].astype("i8"), 0)
