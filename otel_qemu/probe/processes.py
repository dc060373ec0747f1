# SPDX-License-Identifier: Apache-2.0
"""
QEMU processes and the binaries that they have mapped, from /proc.

Every file is opened through /proc/PID.  So a process in a container or under another root is read with its own files,
and a binary that an upgrade has deleted can still be opened.  A file's identity is (device, inode), as for uprobes.
"""

import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_QEMU = re.compile(r"(qemu-system-[\w-]+|qemu-kvm|kvm)( \(deleted\))?")
_LIBRBD = re.compile(r"/librbd\.so[.\d]*( \(deleted\))?$")
_BLOCK_RBD = re.compile(r"/block-rbd\.so( \(deleted\))?$")


@dataclass(frozen=True)
class MappedFile:
    """
    A file that a process has mapped.

    Attributes:
        name: its path as that process sees it, for display.
        path: below /proc/PID, for opening and attaching.
        device, inode: its identity; one attachment serves all processes that map the inode.
    """

    name: str
    path: str
    device: int
    inode: int

    @property
    def identity(self) -> tuple[int, int]:
        """The key of an attachment."""
        return self.device, self.inode


@dataclass(frozen=True)
class QemuProcess:
    """
    A running QEMU.

    Attributes:
        pid, start_ticks: the identity of a process; a pid alone is used again.
        executable: the QEMU binary.
        librbd, block_rbd: the shared objects that it has mapped; None without RBD.  block_rbd is also None if QEMU has
            rbd built in.
        unreachable: names of shared objects that it has mapped and that we cannot open.
        uuid: value of the ``-uuid`` argument, which libvirt always gives.
    """

    pid: int
    start_ticks: int
    executable: MappedFile
    librbd: MappedFile | None
    block_rbd: MappedFile | None
    uuid: str | None
    unreachable: tuple[str, ...] = ()

    @property
    def roots(self) -> tuple[Path, Path]:
        """The roots of the file systems that may have its debug files: its own, then ours."""
        return PROC / str(self.pid) / "root", Path("/")


def qemu_pids(proc: Path = PROC) -> Iterator[int]:
    """Yield the id of every QEMU process that we may see, with one readlink per process."""
    for pid in sorted(int(entry.name) for entry in os.scandir(proc) if entry.name.isdigit()):
        try:
            if _QEMU.fullmatch((proc / str(pid) / "exe").readlink().name):
                yield pid
        except OSError:
            continue  # it has ended, is a kernel thread, or is another user's (see `probe.rights`)


def read_process(pid: int, proc: Path = PROC) -> QemuProcess:
    """
    Read all that /proc has about one QEMU process.

    Raises:
        OSError: the process has ended, or we may not read it.
    """
    directory = proc / str(pid)
    found = [_mapped(directory, wanted) for wanted in (_LIBRBD, _BLOCK_RBD)]
    librbd, block_rbd = (file if isinstance(file, MappedFile) else None for file in found)
    unreachable = tuple(file for file in found if isinstance(file, str))
    executable, uuid = _executable(directory), _uuid(directory)
    return QemuProcess(pid, start_ticks(pid, proc), executable, librbd, block_rbd, uuid, unreachable)


def start_ticks(pid: int, proc: Path = PROC) -> int:
    """
    Return the start time of a process, in clock ticks since boot (proc(5), stat field 22).

    Raises:
        OSError: the process has ended, even if its parent has not waited for it yet.
    """
    stat = (proc / str(pid) / "stat").read_text(errors="replace")
    state, *fields = stat.rpartition(")")[2].split()
    if state in ("Z", "X"):
        raise ProcessLookupError(pid)
    return int(fields[18])


def _executable(directory: Path) -> MappedFile:
    path = directory / "exe"
    status = path.stat()
    return MappedFile(os.readlink(path), str(path), status.st_dev, status.st_ino)


def _mapped(directory: Path, wanted: re.Pattern[str]) -> MappedFile | str | None:
    """Return the file of the first executable mapping with such a name; its name alone if we cannot open it."""
    for line in (directory / "maps").read_text(errors="replace").splitlines():
        span, flags, _offset, _device, inode, *name = line.split(maxsplit=5)
        if "x" in flags and name and wanted.search(name[0]):
            return _opened(directory, span, int(inode), name[0]) or name[0]
    return None


def _opened(directory: Path, span: str, inode: int, name: str) -> MappedFile | None:
    """
    Return the file behind a mapping, by the first path that we may open; None if there is none.

    map_files needs CAP_CHECKPOINT_RESTORE and CAP_DAC_READ_SEARCH, and is the only way to a deleted file.  The kernel
    prints names as seen from our root.  For a process in a container that is a path below its own root.  For a process
    in a chroot it is a path below ours, which is used only if the inode is right.
    """
    for path in (directory / "map_files" / _canonical(span), directory / "root" / name.lstrip("/"), Path(name)):
        try:
            status = path.stat()
        except OSError:
            continue
        if path != Path(name) or status.st_ino == inode:
            return MappedFile(name, str(path), status.st_dev, status.st_ino)
    return None


def _canonical(span: str) -> str:
    """Return an address range without the leading zeros that maps prints and map_files omits."""
    return "-".join(f"{int(end, 16):x}" for end in span.split("-"))


def _uuid(directory: Path) -> str | None:
    arguments = (directory / "cmdline").read_bytes().split(b"\0")
    for option, value in itertools.pairwise(arguments):
        if option in (b"-uuid", b"--uuid"):
            return value.decode(errors="replace").lower()
    return None
