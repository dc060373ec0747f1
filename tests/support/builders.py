# SPDX-License-Identifier: Apache-2.0
"""
Builders: a test states the requests and calls it is about, and gets the arrays that the product makes of them.

Times are CLOCK_MONOTONIC ns, small and round, so that a wrong one shows.
"""

import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from otel_qemu.events import RECORD, Batch, Ending, Link, RbdOperation, RecordKind, Records
from otel_qemu.trace.names import Disk, Guest, Names
from otel_qemu.trace.scsi import OPERATION_OF_OPCODE, operation_code
from otel_qemu.trace.traces import CALL, REQUEST, Join, Traces

PID = 4711
DEVICE = 0x5581_0000_1000
IMAGE = 0x5581_0000_2000
UNIX_OFFSET_NS = 1_700_000_000_000_000_000

ROOT = Disk("ua-ceph-root", "sda", "rbd", "alpha-root", "raw")
ALPHA = Guest(PID, "/usr/bin/qemu-system-x86_64", "6f0b1f7e-0000-4000-8000-000000000001", "alpha", (ROOT,))

_OPCODES = {name: opcode for opcode, name in reversed(OPERATION_OF_OPCODE.items())} | {"READ": 0x28, "WRITE": 0x2A}


def names() -> Names:
    """One guest, alpha, with one disk on RBD."""
    return Names({PID: ALPHA}, {(PID, DEVICE): ROOT}, {(PID, IMAGE): ROOT})


@dataclass(frozen=True)
class Call:
    """One librbd call; `fields` are columns of `traces.CALL`."""

    operation: RbdOperation = RbdOperation.WRITE
    submit_ns: int = 18_000
    duration_ns: int | None = 371_000
    """None: it has not ended."""
    join: Join = Join.WALK_RANGE
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def complete_ns(self) -> int:
        """End of the call, 0 when it has none."""
        return 0 if self.duration_ns is None else self.submit_ns + self.duration_ns

    def columns(self) -> dict[str, Any]:
        """Its columns, but for `parent`."""
        defaults = {"pid": PID, "image": IMAGE, "offset": 1_048_576, "length": 4096}
        own = {name: getattr(self, name) for name in ("operation", "submit_ns", "complete_ns", "join")}
        return {**defaults, **own, **self.fields}


@dataclass(frozen=True)
class Request:
    """One SCSI request and its calls; `fields` are columns of `traces.REQUEST`."""

    operation: str = "WRITE"
    submit_ns: int = 0
    duration_ns: int = 412_000
    calls: tuple[Call, ...] = ()
    fields: dict[str, Any] = field(default_factory=dict)

    def columns(self, first_call: int) -> dict[str, Any]:
        """Its columns; the three parts of its duration follow from its calls."""
        complete_ns = self.submit_ns + self.duration_ns
        ended = sorted((call.submit_ns, call.complete_ns) for call in self.calls if call.complete_ns)
        rbd_ns, last_ns = 0, self.submit_ns
        for begin_ns, end_ns in ended:
            rbd_ns += max(0, end_ns - max(begin_ns, last_ns))
            last_ns = max(last_ns, end_ns)
        completion_ns = complete_ns - last_ns if ended else 0
        return {
            "pid": PID,
            "operation": operation_code(self.operation),
            "opcode": _OPCODES.get(self.operation, 0xFF),
            "device": DEVICE,
            "request": 0x7F00_0000_0000 + first_call,
            "ending": Ending.COMPLETED,
            "first_call": first_call,
            "calls": len(self.calls),
            "lba": 2048,
            "bytes": 4096,
            "block_bytes": 512,
            "submit_ns": self.submit_ns,
            "complete_ns": complete_ns,
            "wait_ns": self.duration_ns - rbd_ns - completion_ns,
            "rbd_ns": rbd_ns,
            "completion_ns": completion_ns,
            **self.fields,
        }


def write(**fields: Any) -> Request:
    """The write everybody knows: 412 µs = wait 18 + rbd 371 + completion 23."""
    return Request(submit_ns=1_000_000, calls=(Call(submit_ns=1_018_000),), fields=fields)


def traces(*requests: Request, orphans: Iterable[Call] = (), unix_offset_ns: int = UNIX_OFFSET_NS) -> Traces:
    """`Traces` of these requests, in this order, with their calls first and the orphans last."""
    request_rows: list[dict[str, Any]] = []
    call_rows: list[dict[str, Any]] = []
    for index, request in enumerate(requests):
        request_rows.append(request.columns(len(call_rows)))
        above = {"parent": index, "device": request_rows[-1]["device"]}
        call_rows += [{**call.columns(), **above} for call in request.calls]
    call_rows += [{**call.columns(), "parent": -1} for call in orphans]
    return Traces(table(REQUEST, request_rows), table(CALL, call_rows), unix_offset_ns)


def table(dtype: np.dtype[np.void], rows: Iterable[dict[str, Any]]) -> Any:
    """An array of a structured dtype; columns that a row does not name are 0."""
    listed = list(rows)
    array = np.zeros(len(listed), dtype)
    for index, row in enumerate(listed):
        for name, value in row.items():
            array[index][name] = value
    return array


def records(count: int, **fields: Any) -> Records:
    """Records as the ring gives them: writes, 1 µs apart; `fields` are columns of `events.RECORD`."""
    rows = np.zeros(count, RECORD)
    rows["pid"], rows["kind"], rows["ending"], rows["device"] = PID, RecordKind.REQUEST, Ending.COMPLETED, DEVICE
    rows["request"] = 0x7F00_0000_0000 + 4096 * np.arange(count)
    rows["submit_ns"] = 1_000_000 + 1_000 * np.arange(count)
    rows["complete_ns"] = rows["submit_ns"] + 412_000
    rows["cdb"][:, 0] = 0x2A
    for name, value in fields.items():
        rows[name] = value
    return rows


def batch(count: int, unix_offset_ns: int = UNIX_OFFSET_NS, **fields: Any) -> Batch:
    """A batch of `records`."""
    return Batch(records(count, **fields), unix_offset_ns)


# ---- the ring, as bpf/ring.bpf.c writes it ---------------------------------------------------------------------


@dataclass(frozen=True)
class Hit:
    """One librbd call as the probes see it; `request` is where the walk ended when the call has no parent."""

    operation: RbdOperation = RbdOperation.WRITE
    submit_ns: int = 0
    complete_ns: int = 0
    offset: int = 0
    length: int = 4096
    pid: int = PID
    image: int = IMAGE
    link: Link = Link.WALK
    request: int = 0
    held: bool = True
    """False: the table of held calls was full, and it left before its request."""
    lost: bool = False
    """Its record, if it has one of its own, met a full ring."""

    def half(self) -> dict[str, Any]:
        """The RBD half of a record."""
        names = ("operation", "offset", "length", "image", "link")
        times = {"call_submit_ns": self.submit_ns, "call_complete_ns": self.complete_ns}
        return {name: getattr(self, name) for name in names} | times

    def record(self, request: int, submit_ns: int, device: int = 0) -> dict[str, Any]:
        """A record of its own: emit_call()."""
        named = {"request": request, "submit_ns": submit_ns, "device": device}
        return {"pid": self.pid, "kind": RecordKind.CALL, **named, **self.half()}


@dataclass(frozen=True)
class Submitted:
    """One SCSI request as the probes see it, and the calls QEMU makes for it."""

    operation: str = "WRITE"
    submit_ns: int = 0
    complete_ns: int = 0
    lba: int = 0
    blocks: int = 8
    calls: tuple[Hit, ...] = ()
    pid: int = PID
    device: int = DEVICE
    address: int = 0x7F00_0000_0000
    started: bool = True
    """False: it was submitted before the probes were attached."""
    lost: bool = False
    """The whole trace met a full ring."""

    @property
    def linked(self) -> list[Hit]:
        """The calls whose walk ended here, in the order of their submits: the first lies in the request's record."""
        return sorted((call for call in self.calls if call.link == Link.WALK), key=lambda call: call.submit_ns)

    def record(self) -> dict[str, Any]:
        """Its record: end_request(), end_unstarted()."""
        own: dict[str, Any] = {"pid": self.pid, "kind": RecordKind.REQUEST, "ending": Ending.COMPLETED}
        own |= {"request": self.address, "complete_ns": self.complete_ns}
        if not self.started:
            return own
        is_data = self.operation in ("READ", "WRITE")
        own |= {"submit_ns": self.submit_ns, "device": self.device, "calls": len(self.linked)}
        own |= {"cdb": cdb(self.operation, self.lba, self.blocks), "transfer_bytes": 512 * self.blocks * is_data}
        for first in self.linked[:1]:
            own |= first.half() | {"call_complete_ns": first.complete_ns * (first.complete_ns <= self.complete_ns)}
        return own

    def emitted(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Its records and when each is written; a call that a lost request held is lost with it."""
        for call in self.calls:
            if call.link != Link.WALK and not call.lost:
                yield call.complete_ns, call.record(call.request, 0)
        if not self.lost:
            yield self.complete_ns, self.record()
        for index, call in enumerate(self.linked):
            late = call.complete_ns > self.complete_ns
            if call.lost or (not late and (index == 0 or (self.lost and call.held))):
                continue
            own = call.complete_ns if late or not call.held else self.complete_ns
            yield own, call.record(self.address, self.submit_ns, self.device)


def distinct_times(requests: list[Submitted]) -> list[Submitted]:
    """The same with every begin at a time of its own, so that 'earliest' means one thing."""
    number = 0
    found = []
    for request in requests:
        calls = []
        for call in request.calls:
            number += 1
            times = {"submit_ns": call.submit_ns * 1000 + number, "complete_ns": call.complete_ns * 1000 + 999}
            calls.append(replace(call, **times))  # type: ignore[arg-type]
        number += 1
        times = {"submit_ns": request.submit_ns * 1000, "complete_ns": request.complete_ns * 1000 + 999}
        found.append(replace(request, calls=tuple(calls), **times))  # type: ignore[arg-type]
    return found


def cdb(operation: str, lba: int, blocks: int) -> bytes:
    """The ten-byte form: READ(10), WRITE(10), SYNCHRONIZE CACHE(10), ..."""
    opcode = {"SYNCHRONIZE_CACHE": 0x35, "WRITE_SAME": 0x41}.get(operation, _OPCODES[operation])
    return bytes([opcode, 0, *lba.to_bytes(4, "big"), 0, *blocks.to_bytes(2, "big"), 0]).ljust(16, b"\0")


def ring(requests: Iterable[Submitted], internal: Iterable[Hit] = ()) -> Records:
    """Every record of these requests and of QEMU's own calls, in the order of their writing."""
    rows = [row for request in requests for row in request.emitted()]
    rows += [(call.complete_ns, call.record(call.request, 0)) for call in internal if not call.lost]
    return ring_of(rows)


def ring_of(rows: Iterable[tuple[int, dict[str, Any]]]) -> Records:
    """Records by the time of their writing; what is written at one time keeps its order."""
    ordered = [row for _, row in sorted(rows, key=lambda row: row[0])]
    for row in ordered:
        row["cdb"] = np.frombuffer(row.get("cdb", bytes(16)), "u1")
    found: Records = table(RECORD, ordered)
    return found


# ---- binaries --------------------------------------------------------------------------------------------------


def compiled(directory: Path, source: str, *options: str, language: str = "c", compiler: str = "gcc") -> Path:
    """What gcc or clang makes of a source with -O2; without `-shared` among the options, a program."""
    path = directory / "binary"
    command = [compiler, "-O2", "-fcf-protection=none", *options, "-x", language, "-", "-o", str(path)]
    subprocess.run(command, input=source.encode(), check=True, timeout=300)
    return path
