# SPDX-License-Identifier: Apache-2.0
"""
The record that a probe emits, as numpy sees it: the dtype, the counters and the enums of ``bpf/events.h``.

The header is the one source.  Fields and counters are parsed from its text.  The enums that Python code uses are
repeated here.  ``tests/bpf`` compares all three with the C compiler's view of the header.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BPF_DIRECTORY = Path(__file__).parent / "bpf"
SOURCES = ("tables", "ring", "latency", "scsi", "rbd", "sites")
"""The files of the BPF program, which are compiled as one text, in this order."""
AUDIT_SOURCES = ("tables", "ring", "latency", "scsi", "audit", "rbd", "sites")
"""The same with ``--audit``, and `AUDIT` defined."""

_HEADER = (BPF_DIRECTORY / "events.h").read_text()
_NUMPY_TYPES = {"u64": "<u8", "s64": "<i8", "u32": "<u4", "s32": "<i4", "u16": "<u2", "s16": "<i2", "u8": "u1"}

Records = NDArray[np.void]
"""An array of dtype `RECORD`, in the order in which the ring was written."""


def _block(kind: str, name: str, header: str = _HEADER) -> str:
    """Return the text between the braces of `kind name { ... }`."""
    found = re.search(rf"^{kind} {name} {{\n(.*?)^}}", header, re.M | re.S)
    if found is None:
        raise LookupError(f"events.h has no {kind} {name}")
    return found[1]


def struct_dtype(struct: str, header: str = _HEADER) -> np.dtype[np.void]:
    """
    Return the dtype of a struct of a header; a byte array becomes a subarray of bytes.

    Raises:
        LookupError: there is no such struct, or a field's type is not one of the fixed-width ones.
    """
    fields: list[Any] = []
    for line in re.findall(r"^    ([\w ]+(?:\[\d+\])?);", _block("struct", struct, header), re.M):
        kind, name = line.split()
        array = re.fullmatch(r"(\w+)\[(\d+)\]", name)
        if array is not None and kind == "char":
            fields.append((array[1], "u1", (int(array[2]),)))
        elif kind in _NUMPY_TYPES:
            fields.append((name, _NUMPY_TYPES[kind]))
        else:
            raise LookupError(f"events.h: struct {struct} has a field of type {kind}")
    return np.dtype(fields)


def _sites() -> tuple[str, ...]:
    """Return the probed functions in the order of their numbers."""
    return tuple(name.lower() for name in re.findall(r"^    SITE_(\w+),", _block("enum", "site"), re.M))


def _counters() -> list[tuple[str, str, str]]:
    """Return each counter's name as users see it, its marks and its meaning, in the order of their numbers."""
    lines = re.findall(r"^    COUNT_(\w+),\s+/\* ((?:\([+!]\) )*)(.*?) \*/$", _block("enum", "counter"), re.M)
    return [(name.lower(), marks, text) for name, marks, text in lines]


RECORD = struct_dtype("record")
"""One record: ``struct record`` of ``bpf/events.h``; 128 bytes, times in CLOCK_MONOTONIC ns."""

SITES = _sites()
"""Names of the probed functions; the position of a name is the cookie of its sites."""
AUDIT_SITES = SITES[SITES.index("dma_blk_io") :]
"""The functions of the exact chain, which are probed with ``--audit`` only."""

NO_RECORDS: Records = np.zeros(0, dtype=RECORD)

COUNTERS = {name: text for name, _, text in _counters()}
"""Name → meaning of every kernel counter, in the order of the ``counters`` map."""

ADDITIONAL = frozenset(name for name, marks, _ in _counters() if "(+)" in marks)
"""Counters that a hit may add to beside another one; it adds to exactly one of the rest."""

LOSSES = tuple(name for name, marks, _ in _counters() if "(!)" in marks)
"""Counters of losses: something was not seen, or not completely.  While nothing is wrong, all of them are 0."""


class RecordKind(IntEnum):
    """`record_kind`: the kind of a record."""

    REQUEST = 1
    CALL = 2
    AUDIT = 3


class Chain(IntEnum):
    """`chain`: the parent of a call by the audit's exact chain."""

    REQUEST = 1
    NONE = 2
    BROKEN = 3


class Ending(IntEnum):
    """`ending`: how a SCSI request ended.  A HUNG one is still in flight: it is reported because it takes too long."""

    COMPLETED = 1
    FAILED = 2
    CANCELLED = 3
    LOST = 4
    HUNG = 5


class Stage(IntEnum):
    """`stage`: the stage of tracing.  ENDING puts nothing new in flight; in ENDED no hit changes anything."""

    TRACING = 0
    ENDING = 1
    ENDED = 2


class Layer(IntEnum):
    """`layer`: the layer of a histogram in the kernel."""

    SCSI = 0
    RBD = 1


class Kept(IntEnum):
    """`kept`: the reason why a trace has a record."""

    ERROR = 1
    SLOW = 2
    SAMPLED = 3
    JOINED_LATER = 4


class RbdOperation(IntEnum):
    """`rbd_operation`: the operation of a librbd call."""

    READ = 1
    WRITE = 2
    DISCARD = 3
    WRITE_ZEROES = 4
    FLUSH = 5


class Link(IntEnum):
    """`link`: how the kernel found a call's parent, or why the call has none."""

    NONE = 0
    WALK = 1
    NO_LAYOUT = 2
    FAULT = 3
    NOT_IN_FLIGHT = 4


RETURN_UNKNOWN = -(2**31)
"""The ``return_value`` of a call whose result was not seen."""


MOST_AT_ONCE = 32768
"""
Enough records to amortise a batch's fixed cost, few enough that a column fits a CPU's L2 cache; results do not depend
on the cut.
"""


@dataclass(frozen=True)
class Batch:
    """
    The records of one reading of the ring.

    Attributes:
        records: dtype `RECORD`, any cut of the stream.
        unix_offset_ns: CLOCK_REALTIME minus CLOCK_MONOTONIC when the batch was read, in ns: add it to a record's time
            to have Unix time.
        read_ns: CLOCK_MONOTONIC when the reading began.  The record of a request that ended before is in this batch, in
            an earlier one, or still being written by a probe.  0: not known, as in a recording.
    """

    records: Records
    unix_offset_ns: int
    read_ns: int = 0

    def __len__(self) -> int:
        return len(self.records)

    def parts(self) -> Iterator["Batch"]:
        """The same records in batches of at most `MOST_AT_ONCE`; an empty batch yields itself."""
        for at in range(0, max(len(self), 1), MOST_AT_ONCE):
            end = at + MOST_AT_ONCE
            yield Batch(self.records[at:end], self.unix_offset_ns, self.read_ns if end >= len(self) else 0)


def records_of(data: Any) -> Records:
    """View bytes, a buffer or a memory map as records, without a copy."""
    return np.frombuffer(data, dtype=RECORD)
