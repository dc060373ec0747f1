# SPDX-License-Identifier: Apache-2.0
"""A QEMU of fake objects in fake memory, whose functions are nothing but the hits of their probes."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from otel_qemu.events import AUDIT_SITES, RECORD, SITES, RbdOperation, Records, Stage
from otel_qemu.policy import EVERYTHING, KeepPolicy
from otel_qemu.probe.program import KERNEL_SETTINGS
from otel_qemu.trace import kernel_histograms
from otel_qemu.trace.histograms import DEFAULT_BOUNDS_S, Histograms, in_ns
from tests.bpf.layouts import QEMU_7_2, Layout
from tests.bpf.library import RING_BYTES, Registers, load
from tests.bpf.memory import Memory

PID = 4242
SUBMITTER = 4243
"""The thread of QEMU that submits: its AioContext's."""
CALLBACK = 4244
"""The thread of librbd that calls back."""
IMAGE = 0x5555_0000_1000
DEVICE = 0x5555_0000_2000
READ_10 = bytes.fromhex("28000000080000000800") + bytes(6)
_REQUEST_BYTES = 0x190
_BUSY, _DISCARDED = 0x80000000, 0x40000000


class Via(Enum):
    """What the opaque pointer of a ``blk_aio_*()`` is."""

    DMA = "DMAAIOCB: READ and WRITE"
    REQUEST = "the SCSIRequest: flushes and WRITE SAME of zeroes"
    CALLBACK_DATA = "UnmapCBData and WriteSameCBData: the request is their first field"


VIA = {
    RbdOperation.READ: Via.DMA,
    RbdOperation.WRITE: Via.DMA,
    RbdOperation.DISCARD: Via.CALLBACK_DATA,
    RbdOperation.WRITE_ZEROES: Via.REQUEST,
    RbdOperation.FLUSH: Via.REQUEST,
}


@dataclass(frozen=True)
class Request:
    """A SCSIRequest of the fake QEMU."""

    address: int


@dataclass(frozen=True)
class Completion:
    """An rbd_completion_t, with every object that hangs on it, by name: address and size."""

    address: int
    objects: dict[str, tuple[int, int]] = field(compare=False)


class Machine:
    """
    Traced from its start; the clock stands still unless `now_ns` is set.

    There is one program a test process: a new machine clears what the one before left.

    Args:
        layout: how this QEMU lays out its objects.
        assumed: the layout that the program is given, if it is another one.
        tables: capacity of the maps named.
        ring_bytes: capacity of the ring.
        policy: which traces get a record.
        bounds_s: of the histograms.
        by_cookie: enter by the programs of a uprobe_multi link, not by those of one function each.
        keep_all: the process is one of those of which every record is needed.
        audit: the program has the exact chain.
    """

    def __init__(
        self,
        layout: Layout = QEMU_7_2,
        *,
        assumed: Layout | None = None,
        tables: dict[str, int] | None = None,
        ring_bytes: int = RING_BYTES,
        policy: KeepPolicy = EVERYTHING,
        bounds_s: tuple[float, ...] = DEFAULT_BOUNDS_S,
        by_cookie: bool = False,
        keep_all: bool = False,
        audit: bool = False,
    ) -> None:
        self._library = load(audit)
        self._library.clear(tables or {}, ring_bytes)
        self.world = self._library.world
        self.world.now_ns = 1_000_000
        self.memory = Memory(self._library.memory)
        self.layout = layout
        self.pid = PID
        self.hits = 0
        self.bounds_s = bounds_s
        self._by_cookie = by_cookie
        self.set_up(policy)
        self.trace(PID, assumed or layout, keep_all=keep_all)
        if audit:
            self._library.put("audited", struct.pack("<I", PID), bytes(4))

    # ---- what user space does

    def trace(self, pid: int, layout: Layout, *, keep_all: bool = False, proving: bool = False) -> None:
        """Have the process `pid` traced."""
        self._library.put(
            "processes",
            struct.pack("<I", pid),
            struct.pack("<14I", *layout.as_words(), keep_all, proving, 0, 0, 0, 0, 0),
        )

    def set_up(self, policy: KeepPolicy) -> None:
        """Say what to keep from now on; the bounds stay."""
        settings = np.zeros((), dtype=KERNEL_SETTINGS)
        settings["bounds_ns"] = np.iinfo("u8").max
        settings["bounds_ns"][: len(self.bounds_s)] = in_ns(self.bounds_s)
        settings["slow_ns"], settings["slow_call_ns"] = policy.slow_ns, policy.slow_call_ns
        settings["one_in"] = policy.one_in
        self._settings = settings
        self._library.set_up(settings.tobytes())

    def set_stage(self, stage: Stage) -> None:
        """Say how far tracing has come."""
        self._settings["stage"] = stage
        self._library.set_up(self._settings.tobytes())

    def copy(self, table: str) -> tuple[bytes, bytes]:
        """Every key and every value of a map, one after the other."""
        return self._library.copy(table)

    def latencies(self) -> tuple[NDArray[np.void], NDArray[np.void]]:
        """The histograms: dtype `kernel_histograms.SERIES` and `kernel_histograms.LATENCY`, both of shape (n,)."""
        keys, values = self.copy("latencies")
        return np.frombuffer(keys, kernel_histograms.SERIES), np.frombuffer(values, kernel_histograms.LATENCY)

    def histograms(self) -> Histograms:
        """The same as user space gives them to people."""
        return kernel_histograms.histograms_of(*self.latencies(), self.bounds_s)

    def records(self) -> Records:
        """Empty the ring."""
        data, found, at = self._library.drain(), [], 0
        while at < len(data):
            (length,) = struct.unpack_from("<I", data, at)
            assert not length & _BUSY, "a record was reserved and never submitted"
            size = length & ~_DISCARDED
            assert size == RECORD.itemsize
            if not length & _DISCARDED:
                found.append(data[at + 8 : at + 8 + size])
            at += 8 + size
        return np.frombuffer(b"".join(found), RECORD)

    def counters(self) -> dict[str, int]:
        """Every counter."""
        return self._library.counters()

    def counted(self) -> dict[str, int]:
        """The counters that are not zero."""
        return {name: value for name, value in self.counters().items() if value}

    def table_sizes(self) -> dict[str, int]:
        """Entries in each map of things in flight."""
        return {name: self._library.hashes[name].size for name in ("requests", "calls", "held", "expected")}

    def in_flight(self, request: Request) -> bool:
        """Whether the program holds the request of the current process to be in flight."""
        return self._library.contains("requests", struct.pack("<QII", request.address, self.pid, 0))

    @property
    def ring_used(self) -> int:
        """Bytes of the ring that records take."""
        return self._library.ring.used

    @property
    def wakeups(self) -> int:
        """How often the ring's reader was woken."""
        return self._library.ring.wakeups

    # ---- time and place

    @property
    def now_ns(self) -> int:
        """CLOCK_MONOTONIC."""
        return self.world.now_ns

    @now_ns.setter
    def now_ns(self, value: int) -> None:
        self.world.now_ns = value

    def hole(self, address: int, size: int) -> None:
        """Make these bytes unreadable."""
        self.world.hole_start, self.world.hole_end = address, address + size

    def fail_read(self, number: int) -> None:
        """Make the `number`-th read from now on fail."""
        self.world.fail_read = self.world.reads + number

    def hit(self, function: str, *arguments: int, thread: int = SUBMITTER, stack: int = 0) -> None:
        """Call a function that is probed; `stack` is the stack pointer then."""
        names = ("di", "si", "dx", "cx", "r8", "r9")
        registers = Registers(**dict(zip(names, arguments, strict=False)), sp=stack)
        self.world.pid_tgid = self.pid << 32 | thread
        self.hits += 1
        if self._by_cookie:
            self.world.cookie = SITES.index(function)
            function = "audit_site" if function in AUDIT_SITES else f"{function.partition('_')[0]}_site"
        assert self._library.run(function, registers) == 0

    # ---- SCSI

    def allocate_request(self, cdb: bytes = READ_10, xfer: int = 4096, tag: int = 7, lun: int = 0) -> Request:
        """scsi_req_new."""
        at, layout = self.memory.allocate(_REQUEST_BYTES), self.layout
        self.memory.write(at + layout.device, "Q", DEVICE)
        self.memory.write(at + layout.tag, "II", tag, lun)
        self.memory.write(at + layout.tag + 28, "16sIIQ", cdb.ljust(16, b"\0"), len(cdb), 0xA5A5A5A5, xfer)
        return Request(at)

    def submit_request(self, cdb: bytes = READ_10, xfer: int = 4096, tag: int = 7, lun: int = 0) -> Request:
        """scsi_req_new and scsi_req_enqueue."""
        request = self.allocate_request(cdb, xfer, tag, lun)
        self.enqueue(request)
        return request

    def new(self, request: Request, cdb: bytes = READ_10, tag: int = 7, lun: int = 0, device: int = DEVICE) -> None:
        """scsi_req_new as its probe sees it: what `request` is made of."""
        buf = self.memory.allocate(16)
        self.memory.write(buf, "16s", cdb.ljust(16, b"\0"))
        self.hit("scsi_req_new", device, _int(tag), _int(lun), buf)

    def enqueue(self, request: Request) -> None:
        """scsi_req_enqueue: of a new request, or of one that goes on after `retry`."""
        self.hit("scsi_req_enqueue", request.address)

    def retry(self, request: Request) -> None:
        """scsi_req_retry: the guest stops on an error."""
        self.hit("scsi_req_retry", request.address)

    def complete(self, request: Request, status: int = 0, sense: bytes = b"") -> None:
        """scsi_req_complete; the request is freed."""
        self.memory.write(request.address + self.layout.sense, f"{len(sense)}s", sense)
        self.hit("scsi_req_complete", request.address, _int(status))
        self.forget(request)

    def fail(self, request: Request, host_status: int) -> None:
        """scsi_req_complete_failed; the request is freed."""
        self.hit("scsi_req_complete_failed", request.address, _int(host_status))
        self.forget(request)

    def cancel(self, request: Request) -> None:
        """scsi_req_cancel_complete; the request is freed."""
        self.hit("scsi_req_cancel_complete", request.address)
        self.forget(request)

    def forget(self, request: Request) -> None:
        """Free the request unseen: its address is the next one that `allocate_request` gives."""
        self.memory.free(request.address, _REQUEST_BYTES)

    # ---- librbd

    def call(
        self,
        request: Request | None,
        operation: RbdOperation,
        *,
        offset: int = 0,
        length: int = 4096,
        via: Via | None = None,
        iovecs: Sequence[int] | None = None,
        image: int = IMAGE,
        inner: bool = False,
    ) -> Completion:
        """
        rbd_aio_*: made for `request`, or for QEMU itself; `iovecs` are lengths, one of `length` unless given.

        `inner`: its probe sits on the call to the function behind the API, which takes other arguments.
        """
        completion = self.prepare(request, via or VIA[operation])
        if operation in (RbdOperation.READ, RbdOperation.WRITE):
            lengths = [length] if iovecs is None else iovecs
            self.call_vector(completion, operation, self.iovec(lengths), len(lengths), offset, image)
        elif inner:
            aio = completion.objects["aio"][0]
            self.hit(f"rbd_aio_{operation.name.lower()}_inner", image, aio, offset, length)
        elif operation == RbdOperation.FLUSH:
            self.hit("rbd_aio_flush", image, completion.address)
        else:
            self.hit(f"rbd_aio_{operation.name.lower()}", image, offset, length, completion.address)
        return completion

    def call_vector(
        self, completion: Completion, operation: RbdOperation, iovec: int, count: int, offset: int, image: int = IMAGE
    ) -> None:
        """rbd_aio_readv or rbd_aio_writev."""
        self.hit(f"rbd_aio_{operation.name.lower()}v", image, iovec, _int(count), offset, completion.address)

    def iovec(self, lengths: Sequence[int]) -> int:
        """Address of an array of struct iovec."""
        at = self.memory.allocate(16 * len(lengths))
        for index, length in enumerate(lengths):
            self.memory.write(at + 16 * index, "QQ", 0xA5A5A5A5, length)
        return at

    def prepare(self, request: Request | None, via: Via, helpers: int = 0) -> Completion:
        """
        Build the objects of one call, from the opaque pointer up to rbd_aio_create_completion.

        `helpers`: coroutines that work for each other between the request's and the call's (block/aio_task.c).
        """
        objects: dict[str, tuple[int, int]] = {}

        def build(name: str, size: int, **pointers: int) -> int:
            objects[name] = (self.memory.allocate(size), size)
            for offset, value in pointers.items():
                self.memory.write(objects[name][0] + int(offset[1:]), "Q", value)
            return objects[name][0]

        target = request.address if request else 0x1000
        opaque = target
        if via is not Via.REQUEST:
            opaque = build("opaque", 88, **{"_24" if via is Via.DMA else "_0": target})
        coroutine = build("coroutine", 64, _8=build("acb", 88, _24=opaque))
        for number in range(helpers):
            task = build(f"aio_task_{number}", 48, _0=build(f"pool_{number}", 40, _0=coroutine))
            coroutine = build(f"helper_{number}", 64, _8=task)
        if self.layout.through_acb:
            coroutine = build("old_acb", 64, _24=build("io_completion", 16, _0=coroutine))
        task = build("task", 48, **{f"_{self.layout.coroutine}": coroutine})
        aio = build("aio", 0x100, **{f"_{self.layout.completion_argument}": task})
        return Completion(build("completion", 8, _0=aio), objects)

    def release(self, completion: Completion, return_value: int = 0, *, thread: int = CALLBACK) -> None:
        """QEMU's callback: store the return value, rbd_aio_release; the call's objects are freed."""
        self.memory.write(completion.objects["task"][0] + self.layout.return_value, "q", return_value)
        self.hit("rbd_aio_release", completion.address, thread=thread)
        self.drop(completion)

    def refuse(self, completion: Completion) -> None:
        """librbd returned an error from rbd_aio_*: the submitter releases at once, and no result is stored."""
        self.hit("rbd_aio_release", completion.address, thread=SUBMITTER)
        self.drop(completion)

    def drop(self, completion: Completion) -> None:
        """Free the call's objects unseen."""
        for address, size in completion.objects.values():
            self.memory.free(address, size)


def _int(value: int) -> int:
    """An `int` in a 64-bit register: the ABI leaves the upper half undefined."""
    return 0xDEADBEEF << 32 | value & 0xFFFFFFFF
