# SPDX-License-Identifier: Apache-2.0
"""bpf(2) without a compiler: a program that does nothing, and what the kernel says about programs' run time."""

import ctypes
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from otel_qemu.probe.attach import MULTI, attach
from otel_qemu.probe.program import Program
from otel_qemu.probe.sites import Site

_SYS_BPF = 321  # x86-64
_PROG_LOAD, _OBJ_GET_INFO_BY_FD, _ENABLE_STATS = 5, 15, 32
_TYPE_KPROBE, _UPROBE_MULTI = 2, 48
_RETURN_0 = struct.pack("<BBhi", 0xB7, 0, 0, 0) + struct.pack("<BBhi", 0x95, 0, 0, 0)  # r0 = 0; exit
_INFO_BYTES, _INFO_NAME = 232, slice(64, 80)  # struct bpf_prog_info


def _bpf(command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = int(ctypes.CDLL(None, use_errno=True).syscall(_SYS_BPF, command, buffer, len(attributes)))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


class EmptyProgram(Program):
    """A program that returns at once; `otel_qemu.probe.attach` takes it for ours, by the uprobe_multi route."""

    def __init__(self) -> None:
        code, licence = ctypes.create_string_buffer(_RETURN_0), ctypes.create_string_buffer(b"GPL")
        attributes = struct.pack(
            "<IIQQIIQII16sII", _TYPE_KPROBE, len(_RETURN_0) // 8, ctypes.addressof(code), ctypes.addressof(licence),
            0, 0, 0, 0, 0, b"empty", 0, _UPROBE_MULTI,
        )  # fmt: skip
        self._fd = _bpf(_PROG_LOAD, attributes)

    def function(self, name: str, multi: bool) -> int:
        """The same for every name."""
        return self._fd

    def close(self) -> None:
        """Give it back to the kernel."""
        os.close(self._fd)


@contextmanager
def empty_program_on(binaries: Iterable[tuple[str, list[Site]]]) -> Iterator[None]:
    """Inside, a program that does nothing is on these sites of these files."""
    with ExitStack() as undo:
        empty = undo.enter_context(closing(EmptyProgram()))
        for path, sites in binaries:
            undo.callback(attach(empty, path, sites, MULTI).detach)
        yield


@contextmanager
def run_times_counted() -> Iterator[None]:
    """Inside, the kernel takes the time of every BPF program; that itself costs each run two readings of the clock."""
    fd = _bpf(_ENABLE_STATS, struct.pack("<I", 0))
    try:
        yield
    finally:
        os.close(fd)


@dataclass(frozen=True)
class RunTime:
    """How often a program ran while that was counted, and for how long in all."""

    runs: int
    ns: int

    def __add__(self, other: "RunTime") -> "RunTime":
        return RunTime(self.runs + other.runs, self.ns + other.ns)


def run_times(pid: int) -> dict[int, RunTime]:
    """Of every program that a process holds, by the program's id."""
    found = {}
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            fields = parse_fdinfo(entry.read_text())
        except OSError:
            continue  # the descriptor that lists the folder
        if "run_cnt" in fields:
            found[fields["prog_id"]] = RunTime(fields["run_cnt"], fields["run_time_ns"])
    return found


def own_run_times() -> dict[str, RunTime]:
    """Of the programs that this process holds, by name: together, where the kernel cuts two names to the same."""
    found: dict[str, RunTime] = {}
    for entry in Path("/proc/self/fdinfo").iterdir():
        try:
            fields = parse_fdinfo(entry.read_text())
        except OSError:
            continue
        if "run_cnt" in fields:
            name = _name(int(entry.name))
            found[name] = found.get(name, RunTime(0, 0)) + RunTime(fields["run_cnt"], fields["run_time_ns"])
    return found


def parse_fdinfo(text: str) -> dict[str, int]:
    """The numbers of a file below /proc/PID/fdinfo, by their names."""
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {name: int(value) for name, value in pairs if value.strip().isdecimal()}


def _name(fd: int) -> str:
    """The first 15 bytes of a program's name."""
    info = ctypes.create_string_buffer(_INFO_BYTES)
    _bpf(_OBJ_GET_INFO_BY_FD, struct.pack("<IIQ", fd, _INFO_BYTES, ctypes.addressof(info)))
    return info.raw[_INFO_NAME].rstrip(b"\0").decode()
