# SPDX-License-Identifier: Apache-2.0
"""Recordings made up by the column: millions of records with the shape of real ones, in no time."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otel_qemu.events import RECORD, Batch, Ending, Kept, Link, RbdOperation, RecordKind, Records

FIRST_PID, OPCODES = 40_000, (0x28, 0x2A, 0x35, 0x42, 0x00)
READ, WRITE, FLUSH, UNMAP, TEST = range(5)
_SHARES = (0.58, 0.40, 0.01, 0.002, 0.008)
_CALLS = np.array((RbdOperation.READ, RbdOperation.WRITE, RbdOperation.FLUSH, RbdOperation.DISCARD, 0), dtype="u1")
_SIZES_BYTES, _SIZE_SHARES = (4096, 8192, 16384, 65536, 262144, 1048576), (0.6, 0.12, 0.12, 0.1, 0.05, 0.01)


@dataclass(frozen=True)
class Shape:
    """
    What a made-up recording is like.

    Attributes:
        requests: how many.
        guests, disks: of the host, and of each guest.
        rate_per_s: at which requests begin, in the records' time.
        mean_s: mean duration of a request; with the rate, it gives how many are in flight.
        walked: whether the kernel joined; else every call is a record of its own, without parent.
        calls_each: of a READ or WRITE: 1 on a raw image, more above a format.
        multi: share of WRITEs with FUA, which have a flush as well.
        orphans: calls of QEMU's own, as a share of requests.
        kept: why there is a record of most.
    """

    requests: int = 2_000_000
    guests: int = 8
    disks: int = 3
    rate_per_s: float = 1e6
    mean_s: float = 0.1
    walked: bool = True
    calls_each: int = 1
    multi: float = 0.025
    orphans: float = 0.002
    kept: Kept = Kept.SAMPLED


def records_of(shape: Shape, seed: int = 1) -> Records:
    """All records, in the order of a ring that several CPUs write."""
    random = np.random.default_rng(seed)
    rows, operation = _requests(shape, random)
    counts = np.where(operation <= WRITE, shape.calls_each, 1)
    counts[operation == WRITE] += random.random(int((operation == WRITE).sum())) < shape.multi
    counts[operation == UNMAP] = random.integers(1, 6, int((operation == UNMAP).sum()))
    counts[operation == TEST] = 0
    first = _first_calls(rows, operation, random)
    parent, further = _further_calls(rows, counts, operation, shape)
    written_ns = rows["complete_ns"][parent]
    rows["calls"] = counts
    if not shape.walked:
        further = _unwalked(rows, first, further)
        written_ns = further["call_complete_ns"]
    alone = _orphans(rows, shape, random)
    everything = np.concatenate((rows, further, alone))
    ends = np.concatenate((rows["complete_ns"], written_ns, alone["call_complete_ns"]))
    # Calls that wait for their request are written with it; the rings' order is that of reserving, CPU by CPU.
    late = random.integers(0, 5000, len(everything)) * (everything["link"] != Link.WALK)
    late[: len(rows)] = random.integers(0, 5000, len(rows)) * (counts < 2)
    return everything[np.argsort(ends + late.astype("u8"), kind="stable")]


def batches_of(records: Records, length: int) -> Iterator[Batch]:
    """The recording as the ring gives it, `length` records at a time."""
    for at in range(0, len(records), length):
        yield Batch(records[at : at + length], 1_700_000_000_000_000_000)


def _requests(shape: Shape, random: np.random.Generator) -> tuple[Records, NDArray[np.int64]]:
    count = shape.requests
    rows = np.zeros(count, dtype=RECORD)
    operation = random.choice(len(OPCODES), count, p=_SHARES)
    guest, disk = random.integers(0, shape.guests, count), random.integers(0, shape.disks, count)
    rows["pid"], rows["kind"], rows["ending"] = FIRST_PID + guest, RecordKind.REQUEST, Ending.COMPLETED
    rows["device"] = 0x5581_0000_0000 + 0x10_0000 * guest + 0x1000 * disk
    rows["image"] = rows["device"] + 0x500
    rows["request"] = 0x7F00_0000_0000 + 0x400 * np.arange(count) % 0x400_0000
    rows["tag"] = np.arange(count) & 0xFFFF
    rows["submit_ns"] = 10**12 + np.sort(random.integers(0, int(count / shape.rate_per_s * 1e9), count))
    duration_ns = np.maximum(random.gamma(2, shape.mean_s / 2 * 1e9, count), 10_000).astype("u8")
    rows["complete_ns"] = rows["submit_ns"] + duration_ns
    rows["transfer_bytes"] = random.choice(_SIZES_BYTES, count, p=_SIZE_SHARES) * (operation <= WRITE)
    lba = random.integers(0, 1 << 26, count) * 8
    rows["cdb"][:, 0] = np.array(OPCODES)[operation]
    for byte in range(4):
        rows["cdb"][:, 2 + byte] = lba >> 8 * (3 - byte)
    for byte in range(2):
        rows["cdb"][:, 7 + byte] = rows["transfer_bytes"] // 512 >> 8 * (1 - byte)
    rows["kept"] = np.where(random.random(count) < 0.002, Kept.SLOW, shape.kept)
    rows["status"] = np.where(random.random(count) < 0.0005, 2, 0)
    rows["kept"][rows["status"] > 0] = Kept.ERROR
    return rows, operation


def _first_calls(rows: Records, operation: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.bool_]:
    """Fill the RBD halves; which rows have one."""
    has = operation != TEST
    duration = (rows["complete_ns"] - rows["submit_ns"]).astype("i8")
    wait = (duration * random.random(len(rows)) * 0.3).astype("u8")
    rows["call_submit_ns"] = np.where(has, rows["submit_ns"] + wait, 0)
    rows["call_complete_ns"] = np.where(has, rows["complete_ns"] - wait // np.uint64(8), 0)
    rows["operation"], rows["link"] = _CALLS[operation], np.where(has, Link.WALK, Link.NONE)
    lba = (rows["cdb"][:, 2:6].astype("u8") << np.array((24, 16, 8, 0), dtype="u8")).sum(axis=1)
    rows["offset"], rows["length"] = 512 * lba * (operation <= WRITE), rows["transfer_bytes"]
    rows["rbd_ns"] = rows["call_complete_ns"] - rows["call_submit_ns"]
    rows["image"] *= has
    return has


def _further_calls(
    rows: Records, counts: NDArray[np.int64], operation: NDArray[np.int64], shape: Shape
) -> tuple[NDArray[np.int64], Records]:
    """Whose they are, and the records of calls beyond each request's first."""
    parent = np.repeat(np.arange(len(rows)), np.maximum(counts - 1, 0))
    calls = rows[parent]
    number = np.arange(len(parent)) - np.searchsorted(parent, parent, side="left") + 1
    for name in ("complete_ns", "transfer_bytes", "device", "tag", "rbd_ns", "status", "ending"):
        calls[name] = 0
    calls["cdb"], calls["kind"] = 0, RecordKind.CALL
    # One after the other within the time of the first, so that unions are neither sums nor the whole.
    part = (calls["call_complete_ns"] - calls["call_submit_ns"]) // np.uint64(2 * max(int(counts.max()), 1))
    calls["call_submit_ns"] += part * number.astype("u8")
    fua = (operation[parent] == WRITE) & (number == shape.calls_each)
    calls["operation"] = np.where(fua, RbdOperation.FLUSH, calls["operation"])
    return parent, calls


def _unwalked(rows: Records, first: NDArray[np.bool_], further: Records) -> Records:
    """Every call as a record of its own that names no request."""
    own = rows[first]
    for name in ("complete_ns", "transfer_bytes", "device", "tag", "rbd_ns", "status", "ending"):
        own[name] = 0
    own["cdb"], own["kind"] = 0, RecordKind.CALL
    calls = np.concatenate((own, further))
    calls["request"], calls["submit_ns"], calls["link"] = 0, 0, Link.NO_LAYOUT
    for name in ("call_submit_ns", "call_complete_ns", "offset", "length", "image", "operation", "link", "calls"):
        rows[name] = 0
    return calls


def _orphans(rows: Records, shape: Shape, random: np.random.Generator) -> Records:
    calls = rows[random.integers(0, len(rows), int(len(rows) * shape.orphans))]
    begin, end = calls["submit_ns"].copy(), calls["complete_ns"].copy()
    image = calls["device"] + np.uint64(0x500)
    calls[:] = np.zeros(1, dtype=RECORD)
    calls["pid"], calls["kind"], calls["operation"] = FIRST_PID, RecordKind.CALL, RbdOperation.READ
    calls["link"], calls["image"], calls["kept"] = Link.NOT_IN_FLIGHT, image, shape.kept
    calls["call_submit_ns"], calls["call_complete_ns"], calls["length"] = begin, end, 65536
    return calls
