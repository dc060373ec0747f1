# SPDX-License-Identifier: Apache-2.0
"""The BPF program compiled with the shim, and what the shim exports, as ctypes sees it."""

import ctypes
import functools
import subprocess
import tempfile
from collections.abc import Sequence
from ctypes import c_int, c_uint8, c_uint32, c_uint64, c_void_p
from pathlib import Path

from otel_qemu.events import AUDIT_SOURCES, BPF_DIRECTORY, COUNTERS, SOURCES
from otel_qemu.probe.program import KERNEL_SETTINGS

SHIM_DIRECTORY = Path(__file__).parent / "shim"
HEADERS = BPF_DIRECTORY / "headers" / "include"
MEMORY_BASE = 0x7F0000000000
MEMORY_BYTES = 8 << 20
RING_BYTES = 1 << 20
TABLE_ENTRIES = 1024
_RING_DATA = 24
HASHES = ("processes", "requests", "calls", "held", "expected", "made", "submitted", "latencies")
AUDIT_HASHES = ("threads", "coroutines", "audited")
SIZES = ("PROCESSES", "REQUESTS", "SERIES")
# fmt: off
_REGISTERS = (
    "r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx", "si", "di",
    "orig_ax", "ip", "cs", "flags", "sp", "ss",
)
# fmt: on


class Registers(ctypes.Structure):
    """``struct pt_regs`` of x86-64."""

    _fields_ = [(name, c_uint64) for name in _REGISTERS]


class World(ctypes.Structure):
    """``struct shim_world``."""

    now_ns: int
    pid_tgid: int
    reads: int
    fail_read: int
    hole_start: int
    hole_end: int
    faults_injected: int
    cookie: int
    dice: int
    dice_step: int
    throws: int
    _fields_ = [
        (name, c_uint64)
        for name in (
            *("now_ns", "pid_tgid", "reads", "fail_read", "hole_start", "hole_end", "faults_injected"),
            *("cookie", "dice", "dice_step", "throws"),
        )
    ]


class Hash(ctypes.Structure):
    """``struct shim_hash``, its first five fields."""

    key_bytes: int
    value_bytes: int
    size: int
    _fields_ = [(name, c_uint32) for name in ("key_bytes", "value_bytes", "buckets", "capacity", "size")]


class Ring(ctypes.Structure):
    """``struct shim_ring`` up to its data."""

    capacity: int
    used: int
    wakeups: int
    _fields_ = [("capacity", c_uint64), ("used", c_uint64), ("wakeups", c_uint64)]


def compile_c(source: Path, output: Path, arguments: Sequence[str]) -> None:
    """
    Run gcc with warnings as errors.

    Raises:
        AssertionError: it did not compile; the message is the compiler's.
    """
    command = ["gcc", "-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Wpadded", "-Werror", *arguments, f"-I{HEADERS}"]
    command += ["-o", str(output), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


PROGRAM_ARGUMENTS = (
    *(f"-D{name}={TABLE_ENTRIES}" for name in SIZES),
    *(f"-DRING_PAGES={RING_BYTES // 4096}", f"-I{BPF_DIRECTORY}", "-include", str(SHIM_DIRECTORY / "shim.h")),
    "-Wno-unknown-pragmas",  # unroll, which is clang's
)
"""What it takes to compile the BPF program as C."""


def program_source(directory: Path, audit: bool = False) -> Path:
    """The files of the program, as the one text that it is compiled from."""
    source = directory / "program.bpf.c"
    files = AUDIT_SOURCES if audit else SOURCES
    source.write_text("".join((BPF_DIRECTORY / f"{name}.bpf.c").read_text() for name in files))
    return source


class Library:
    """The program, its maps and the world it believes itself in: one a test process, cleared for each machine."""

    def __init__(self, path: Path, audit: bool) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.shim_put.argtypes = [c_void_p, c_void_p, c_void_p, c_int]
        self._library.shim_lookup.argtypes = [c_void_p, c_void_p]
        self._library.shim_lookup.restype = c_void_p
        self._library.shim_clear.argtypes = [c_void_p, c_uint32]
        self._library.shim_clear.restype = None
        self.world = World.in_dll(self._library, "shim_world")
        self.ring = Ring.in_dll(self._library, "shim_ring")
        self.hashes = {name: Hash.in_dll(self._library, f"shim_{name}") for name in (*HASHES, *AUDIT_HASHES * audit)}
        self._counters = (c_uint64 * len(COUNTERS)).in_dll(self._library, "shim_counters")
        self._settings = (c_uint8 * KERNEL_SETTINGS.itemsize).in_dll(self._library, "shim_settings")
        self.memory = memoryview((c_uint8 * MEMORY_BYTES).in_dll(self._library, "shim_memory")).cast("B")

    def clear(self, tables: dict[str, int], ring_bytes: int) -> None:
        """Empty every map and forget the world; `tables` lowers the capacity of some hashes."""
        ctypes.memset(ctypes.byref(self.world), 0, ctypes.sizeof(self.world))
        ctypes.memset(self._counters, 0, ctypes.sizeof(self._counters))
        for name, table in self.hashes.items():
            self._library.shim_clear(ctypes.byref(table), tables.get(name, TABLE_ENTRIES))
        self.ring.capacity, self.ring.used, self.ring.wakeups = ring_bytes, 0, 0

    def put(self, table: str, key: bytes, value: bytes) -> None:
        """What user space does with a map: insert or replace."""
        done = self._library.shim_put(ctypes.byref(self.hashes[table]), key, value, 1)
        assert done == 0, f"{table} is full"

    def set_up(self, settings: bytes) -> None:
        """Write the only entry of the array `settings`."""
        ctypes.memmove(self._settings, settings, len(self._settings))

    def copy(self, table: str) -> tuple[bytes, bytes]:
        """Every key of a map and every value, in the same order."""
        of = self.hashes[table]
        keys, values = (ctypes.create_string_buffer(max(1, of.size * size)) for size in (of.key_bytes, of.value_bytes))
        copied = self._library.shim_copy(ctypes.byref(of), keys, values)
        assert copied == of.size
        return keys.raw[: copied * of.key_bytes], values.raw[: copied * of.value_bytes]

    def contains(self, table: str, key: bytes) -> bool:
        """Whether a map has an entry."""
        return self._library.shim_lookup(ctypes.byref(self.hashes[table]), key) is not None

    def run(self, function: str, registers: Registers) -> int:
        """One hit of a probe."""
        return int(self._library[function](ctypes.byref(registers)))

    def drain(self) -> bytes:
        """Everything in the ring, headers included; it is empty then."""
        data = ctypes.string_at(ctypes.addressof(self.ring) + _RING_DATA, self.ring.used)
        self.ring.used = 0
        return data

    def counters(self) -> dict[str, int]:
        """Every counter by the name that users see."""
        return dict(zip(COUNTERS, self._counters, strict=True))


@functools.cache
def load(audit: bool = False) -> Library:
    """Compile and load the program, once a test process and kind."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "trace.so"
        switch = ["-DAUDIT"] if audit else []
        compile_c(program_source(Path(directory), audit), path, ["-shared", "-fPIC", *PROGRAM_ARGUMENTS, *switch])
        return Library(path, audit)
