# SPDX-License-Identifier: Apache-2.0
"""Reads the kernel's own view of probes: from a file descriptor, and from a process's memory."""

import ctypes
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

_SYS_BPF, _OBJ_GET_INFO_BY_FD, _TASK_FD_QUERY = 321, 15, 20
_LINK_TYPE_UPROBE_MULTI = 12
_MOST_SITES = 64
_FD_TYPES = ("raw_tracepoint", "tracepoint", "kprobe", "kretprobe", "uprobe", "uretprobe")


class _LinkInfo(ctypes.Structure):
    """``struct bpf_link_info`` of a uprobe_multi link (include/uapi/linux/bpf.h)."""

    _fields_ = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("prog_id", ctypes.c_uint32),
        ("unused", ctypes.c_uint32),
        ("path", ctypes.c_uint64),
        ("offsets", ctypes.c_uint64),
        ("ref_ctr_offsets", ctypes.c_uint64),
        ("cookies", ctypes.c_uint64),
        ("path_size", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("pid", ctypes.c_uint32),
    ]


def _bpf(command: int, attributes: ctypes.Array[ctypes.c_char]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_SYS_BPF, command, attributes, len(attributes)) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@dataclass(frozen=True)
class Link:
    """
    A uprobe_multi link as the kernel has it.

    Attributes:
        flags: BPF_F_UPROBE_MULTI_RETURN is 1.
        cookies: of each site, by its offset in the file.
    """

    flags: int
    cookies: dict[int, int]


def read_link(fd: int) -> Link:
    """Return the kernel's information about a link."""
    offsets, cookies = (ctypes.c_uint64 * _MOST_SITES)(), (ctypes.c_uint64 * _MOST_SITES)()
    info = _LinkInfo(offsets=ctypes.addressof(offsets), cookies=ctypes.addressof(cookies), count=_MOST_SITES)
    words = fd.to_bytes(4, "little") + ctypes.sizeof(info).to_bytes(4, "little")
    _bpf(_OBJ_GET_INFO_BY_FD, ctypes.create_string_buffer(words + ctypes.addressof(info).to_bytes(8, "little"), 16))
    assert info.type == _LINK_TYPE_UPROBE_MULTI
    return Link(int(info.flags), dict(zip(offsets[: info.count], cookies[: info.count], strict=True)))


def perf_event_type(fd: int) -> str:
    """Return the type of a perf event with a program, ``uprobe`` or ``uretprobe`` (BPF_TASK_FD_QUERY)."""
    query = os.getpid().to_bytes(4, "little") + fd.to_bytes(4, "little")
    attributes = ctypes.create_string_buffer(query, 48)
    _bpf(_TASK_FD_QUERY, attributes)
    return _FD_TYPES[int.from_bytes(attributes.raw[28:32], "little")]


def open_probes() -> list[str]:
    """Links and perf events that this process has open."""
    names = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            names.append(os.readlink(entry))
        except FileNotFoundError:
            continue  # the descriptor that lists the folder
    return [name for name in names if re.search(r"bpf[_-]link|perf_event", name)]


def traced_events() -> str:
    """Return the uprobes in tracefs, mounted for this if it is not: systemd mounts it."""
    at = "/sys/kernel/tracing"
    command = f"test -e {at}/uprobe_events || mount -t tracefs none {at} && cat {at}/uprobe_events"
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", command], capture_output=True, text=True, check=True, timeout=60
    ).stdout


@dataclass(frozen=True)
class Text:
    """The code of one file in a process's memory."""

    pid: int
    path: Path

    def at(self, offset: int) -> int:
        """The byte that the process would execute at an offset of the file."""
        for line in Path(f"/proc/{self.pid}/maps").read_text().splitlines():
            span, flags, start, _, _, *name = line.split(maxsplit=5)
            first, last = (int(end, 16) for end in span.split("-"))
            if "x" in flags and name == [str(self.path)] and 0 <= offset - int(start, 16) < last - first:
                with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as memory:
                    memory.seek(first + offset - int(start, 16))
                    return memory.read(1)[0]
        raise LookupError(f"{self.path}+{offset:#x} is not mapped in process {self.pid}")
