# SPDX-License-Identifier: Apache-2.0
"""
Verdicts of the exact chain (``bpf/audit.bpf.c``): kept until the librbd call has come, then compared with its join.
"""

from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_qemu.events import AUDIT_SITES, Chain, RbdOperation, Records
from otel_qemu.trace import scsi
from otel_qemu.trace.arrays.groups import mixed
from otel_qemu.trace.rules import DIRECT
from otel_qemu.trace.traces import Join, Table, Traces

MOST_HELD_VERDICTS = 400_000
"""Verdicts that wait for their call; of more, the older half is dropped: the kernel kept no record of those calls."""

_LOST = 1 << 31
"""AUDIT_LOST: the kernel's tables were full, so that of no call it can be said that it has no request."""

VERDICT = np.dtype(
    [
        ("key", "<u8"),
        ("pid", "<u4"),
        ("led", "<u4"),  # functions of the chain that had led to a request of that process, a bit each
        ("image", "<u8"),
        ("call_submit_ns", "<u8"),
        ("offset", "<u8"),
        ("request", "<u8"),  # the chain's request, by address and submit
        ("submit_ns", "<u8"),
        ("operation", "u1"),
        ("chain", "u1"),
        ("used", "u1"),  # a bit for each of the two comparisons
        ("unused", "u1", (5,)),
    ]
)
"""One call's verdict."""


class Outcome(IntEnum):
    """What the chain makes of a call's join."""

    AGREED = 1
    """It says the same."""
    DIFFER = 2
    """It was joined to another request than the chain's, or to one where the chain knows of none."""
    MISSED = 3
    """It was left without a request, and the chain has one."""
    SILENT = 4
    """The chain does not tell."""


class Verdicts:
    """
    The verdicts that one of the two comparisons has not used yet: that of the joins, and that of the rules alone.

    Args:
        most_held: verdicts that wait, beside one batch's; of more, the older half is dropped.

    Attributes:
        count: all that were ever kept.
        held: those that wait, dtype `VERDICT`, by key.
    """

    def __init__(self, most_held: int = MOST_HELD_VERDICTS) -> None:
        self._most_held = most_held
        self.count = 0
        self.held: Table = np.zeros(0, dtype=VERDICT)

    def keep(self, records: Records) -> None:
        """Take in records of `RecordKind.AUDIT`."""
        self.count += len(records)
        if len(self.held) > self._most_held:
            self.held = self.held[self.held["call_submit_ns"] > np.median(self.held["call_submit_ns"])]
        self.held = np.concatenate((self.held, _verdicts(records)))
        self.held = self.held[np.argsort(self.held["key"], kind="stable")]

    def of(self, calls: Table, comparison: int) -> Table:
        """The verdict on each call, dtype `VERDICT`, shape (n,); `chain` is 0 where there is none."""
        found = np.zeros(len(calls), dtype=VERDICT)
        if len(self.held):
            keys = _keys(calls, "submit_ns")
            at = np.minimum(np.searchsorted(self.held["key"], keys), len(self.held) - 1)
            same = self.held["call_submit_ns"][at] == calls["submit_ns"]
            for name in ("pid", "image", "offset", "operation"):
                same &= self.held[name][at] == calls[name]
            found[same] = self.held[at[same]]
            self.held["used"][at[same]] |= 1 << comparison
            self.held = self.held[self.held["used"] != _USED_BY_BOTH]
        return found


_USED_BY_BOTH = 0b11


def judge(traces: Traces, verdicts: Table) -> tuple[NDArray[np.uint8], NDArray[np.str_]]:
    """
    What the chain makes of each call's join.

    Args:
        traces: the calls, with their joins.
        verdicts: one a call, dtype `VERDICT`; `chain` 0 for none.

    Returns:
        The `Outcome`, and why the chain is silent if it is; both of shape (n,).
    """
    calls, chain = traces.calls, verdicts["chain"]
    joined = calls["parent"] >= 0
    same = _same_request(traces, verdicts)
    named, whole = chain == Chain.REQUEST, _is_whole(traces, verdicts["led"])
    nobody = (chain == Chain.NONE) & whole
    has_request = joined | (calls["join"] == Join.PARENT_LOST)
    outcome = np.full(len(calls), Outcome.SILENT, dtype="u1")
    outcome[(named & same) | (nobody & ~has_request)] = Outcome.AGREED
    outcome[has_request & ((named & ~same) | nobody)] = Outcome.DIFFER
    outcome[~has_request & named] = Outcome.MISSED
    reasons = ["the verdict was lost", "its thread had not been seen to switch", "some of the chain never ran"]
    return outcome, np.select([chain == 0, chain == Chain.BROKEN, chain == Chain.NONE], reasons, "")


def _same_request(traces: Traces, verdicts: Table) -> NDArray[np.bool_]:
    """Whether join and chain name the same request; of a parent that was lost, only the address is known."""
    calls = traces.calls
    same = (calls["join"] == Join.PARENT_LOST) & (calls["request"] == verdicts["request"])
    joined = calls["parent"] >= 0
    parents, theirs = traces.requests[calls["parent"][joined]], verdicts[joined]
    same[joined] = (parents["request"] == theirs["request"]) & (parents["submit_ns"] == theirs["submit_ns"])
    return same


def _bits(*functions: str) -> int:
    """As ``audited`` of ``bpf/audit.bpf.c`` has them."""
    return sum(1 << AUDIT_SITES.index(name) for name in functions)


# What must have run for "the chain knows of no request" to mean anything: a compiler may have put a function into its
# callers, where no probe sees it.  For a join, what its request would have gone through; else, what its call would.
_BY_CALL = np.full(256, 1 << 30, dtype="u4")  # never set: NONE says nothing of an operation that is not listed here
_BY_CALL[RbdOperation.READ] = _bits("blk_aio_preadv")
_BY_CALL[RbdOperation.WRITE] = _bits("blk_aio_pwritev")
_BY_CALL[RbdOperation.DISCARD] = _bits("blk_aio_pdiscard")
_BY_CALL[RbdOperation.WRITE_ZEROES] = _bits("blk_aio_pwrite_zeroes")
_BY_CALL[RbdOperation.FLUSH] = _bits("blk_aio_flush")
_BY_REQUEST = np.full(len(scsi.OPERATIONS), 1 << 30, dtype="u4")
for _name, _calls in DIRECT.items():
    _data = _bits("dma_blk_io") if _name in (*scsi.READS, *scsi.WRITES) else 0
    _BY_REQUEST[scsi.operation_code(_name)] = _BY_CALL[_calls[0]] | _data


def _is_whole(traces: Traces, led: Any) -> Any:
    """Whether all of the chain that a call would have come through has led to requests before, and lost nothing."""
    calls = traces.calls
    needed = _BY_CALL[calls["operation"]]
    joined = calls["parent"] >= 0
    needed[joined] = _BY_REQUEST[traces.requests["operation"][calls["parent"][joined]]]
    return ((led & needed) == needed) & ((led & _LOST) == 0)


def _verdicts(records: Records) -> Table:
    rows = np.zeros(len(records), dtype=VERDICT)
    for name in ("pid", "image", "call_submit_ns", "offset", "operation", "request", "submit_ns"):
        rows[name] = records[name]
    rows["led"], rows["chain"] = records["tag"], records["ending"]
    rows["key"] = _keys(rows, "call_submit_ns")
    return rows


def _keys(rows: Table, submitted: str) -> NDArray[np.uint64]:
    return mixed(*(rows[name] for name in ("pid", "image", submitted, "offset", "operation")))
