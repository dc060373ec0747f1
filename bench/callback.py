# SPDX-License-Identifier: Apache-2.0
"""
The usual way: BCC's ring-buffer callback, an event object a record, dictionaries of Python objects.

The ring itself is left out, which is in the usual way's favour: a loop in C hands the address of one record after the
other to a ctypes callback, as libbpf's ``ring_buffer__consume`` does, and bcc's own wrapper of it (``ringbuf_cb_``
in bcc/table.py) calls what the script gave it.  What the script then makes is what `otel_qemu.trace` makes of the same
records: one object per request and per call, with the same fields.  `tests/unit/bench/test_pipeline.py` compares
them.
"""

import ctypes
import random
from bisect import bisect_left
from typing import Any

from otel_qemu.events import RECORD, Kept, RbdOperation, RecordKind, Records
from otel_qemu.trace.histograms import DEFAULT_BOUNDS_S, in_ns
from otel_qemu.trace.sample import threshold_of
from otel_qemu.trace.scsi import OPERATION_OF_OPCODE

Key = tuple[int, int, str, str | int]
MAY_CAUSE = {
    "READ": {RbdOperation.READ},
    "WRITE": set(RbdOperation),
    "SYNCHRONIZE_CACHE": {RbdOperation.FLUSH, RbdOperation.WRITE},
    "UNMAP": {RbdOperation.DISCARD, RbdOperation.WRITE_ZEROES, RbdOperation.WRITE},
}
"""The calls that each command may lead to."""

_C_TYPES = {
    "u1": ctypes.c_uint8,
    "u2": ctypes.c_uint16,
    "u4": ctypes.c_uint32,
    "u8": ctypes.c_uint64,
    "i4": ctypes.c_int32,
}
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


def _fields() -> list[tuple[str, Any]]:
    found = []
    for name in RECORD.names or ():
        column = RECORD[name]
        kind = _C_TYPES[column.base.str[-2:]]
        found.append((name, kind * column.shape[0] if column.shape else kind))
    return found


class Event(ctypes.Structure):
    """``struct record``, as bcc makes a class of it."""

    _fields_ = _fields()


class Request:
    """A SCSI request and its calls: everything that a row of `traces.REQUEST` has."""

    def __init__(self, event: Event) -> None:
        self.pid, self.device, self.request, self.tag, self.lun = (
            event.pid, event.device, event.request, event.tag, event.lun,
        )  # fmt: skip
        self.ending, self.status, self.host_status, self.retries = (
            event.ending, event.status, event.host_status, event.retries,
        )  # fmt: skip
        self.sense_key, self.asc, self.ascq, self.kept = event.sense_key, event.asc, event.ascq, event.kept
        self.submit_ns, self.complete_ns = event.submit_ns, event.complete_ns
        self.bytes = event.transfer_bytes
        self._decode(bytes(event.cdb))
        self.missing = event.calls - (event.call_submit_ns > 0)
        self.calls = [Call(event)] if event.call_submit_ns else []
        self.wait_ns = self.rbd_ns = self.completion_ns = self.randomness = self.threshold = 0

    def _decode(self, cdb: bytes) -> None:
        """Operation, address and block size, of the 10-byte commands; the workload has no others."""
        self.opcode = cdb[0]
        self.operation = OPERATION_OF_OPCODE.get(cdb[0], "OTHER")
        self.lba = self.block_bytes = 0
        if self.operation in ("READ", "WRITE", "SYNCHRONIZE_CACHE"):
            self.lba = int.from_bytes(cdb[2:6], "big")
            blocks = int.from_bytes(cdb[7:9], "big")
            if self.operation != "SYNCHRONIZE_CACHE" and blocks:
                self.block_bytes = self.bytes // blocks

    def split(self) -> None:
        """Where its time went."""
        end_ns = self.submit_ns
        for call in self.calls:
            last_ns = min(call.complete_ns or self.complete_ns, self.complete_ns)
            self.rbd_ns += max(0, last_ns - max(call.submit_ns, end_ns))
            end_ns = max(end_ns, last_ns)
        if self.calls:
            self.completion_ns = self.complete_ns - end_ns
        self.wait_ns = self.complete_ns - self.submit_ns - self.rbd_ns - self.completion_ns


class Call:
    """A librbd call: everything that a row of `traces.CALL` has."""

    def __init__(self, event: Event) -> None:
        self.pid, self.image, self.operation, self.request = event.pid, event.image, event.operation, event.request
        self.submit_ns, self.complete_ns = event.call_submit_ns, event.call_complete_ns
        self.offset, self.length, self.return_value = event.offset, event.length, event.return_value
        self.kept, self.device, self.join, self.disagrees = event.kept, event.device, "internal", False

    def check(self, request: Request, image: int) -> None:
        """Hold the kernel's join against direction, time, image and byte range."""
        fits = self.operation in MAY_CAUSE.get(request.operation, ())
        fits = fits and request.submit_ns <= self.submit_ns <= request.complete_ns
        self.disagrees = not (fits and self.complete_ns <= request.complete_ns and self.image == image)
        start = request.lba * request.block_bytes
        has_range = request.operation in ("READ", "WRITE") and self.operation != RbdOperation.FLUSH
        in_range = has_range and start <= self.offset and self.offset + self.length <= start + request.bytes
        self.join, self.device = "walk+range" if in_range else "walk", request.device


class Script:
    """What one writes around the callback."""

    def __init__(self, one_in: int = 1) -> None:
        self.requests = self.calls = self.disagreements = self.kept = 0
        self.histograms: dict[Key, list[int]] = {}
        self._threshold = threshold_of(one_in)
        self._bounds_ns: list[int] = in_ns(DEFAULT_BOUNDS_S).tolist()
        self._waiting: dict[tuple[int, int, int], Request] = {}
        self._early: dict[tuple[int, int, int], list[Call]] = {}
        self._images: dict[tuple[int, int], int] = {}

    def consume(self, records: Records) -> None:
        """Hand every record to the callback, from C."""
        count, callback = ctypes.c_size_t(len(records)), _CALLBACK(self._ringbuf_cb)
        address = ctypes.c_void_p(records.ctypes.data)
        # lfind(3): not one of them is equal, says the callback, so that all are shown to it.
        ctypes.CDLL(None).lfind(None, address, ctypes.byref(count), ctypes.c_size_t(records.itemsize), callback)

    def _ringbuf_cb(self, context: int, data: int) -> int:
        self._callback(context, data, RECORD.itemsize)
        return 1

    def _callback(self, _context: int, data: int, _size: int) -> None:
        event = ctypes.cast(data, ctypes.POINTER(Event)).contents
        key = event.pid, event.request, event.submit_ns
        if event.kind == RecordKind.REQUEST:
            self._take_request(Request(event), key)
        elif event.submit_ns:
            self._take_call(Call(event), key)
        else:
            self._give_out(Call(event), random.getrandbits(56))

    def _take_request(self, request: Request, key: tuple[int, int, int]) -> None:
        early = self._early.pop(key, []) if request.missing else []
        request.calls += early
        request.missing -= len(early)
        if request.missing:
            self._waiting[key] = request
        else:
            self._finish(request)

    def _take_call(self, call: Call, key: tuple[int, int, int]) -> None:
        request = self._waiting.get(key)
        if request is None:
            self._early.setdefault(key, []).append(call)
            return
        request.calls.append(call)
        request.missing -= 1
        if not request.missing:
            self._finish(self._waiting.pop(key))

    def _finish(self, request: Request) -> None:
        self.requests += 1
        request.calls.sort(key=lambda call: call.submit_ns)
        request.split()
        request.randomness = random.getrandbits(56)
        request.threshold = 0 if request.kept in (Kept.ERROR, Kept.SLOW) else self._threshold
        self.kept += request.randomness >= request.threshold
        for call in request.calls:
            call.check(request, self._images.setdefault((request.pid, request.device), call.image))
            self._give_out(call, request.randomness)
        duration_ns = request.complete_ns - request.submit_ns
        self._count((request.pid, request.device, "scsi", request.operation), duration_ns)
        if request.calls:
            self._count((request.pid, request.device, "wait", request.operation), request.wait_ns)

    def _give_out(self, call: Call, randomness: int) -> None:
        self.calls += 1
        self.disagreements += call.disagrees
        self.kept += call.join == "internal" and randomness >= self._threshold
        self._count((call.pid, call.device, "rbd", call.operation), call.complete_ns - call.submit_ns)

    def _count(self, key: Key, duration_ns: int) -> None:
        row = self.histograms.get(key)
        if row is None:
            row = self.histograms[key] = [0] * (len(self._bounds_ns) + 2)
        row[bisect_left(self._bounds_ns, duration_ns)] += 1
        row[-1] += duration_ns
