"""
QEMU processes and the binaries they have mapped, from /proc.

Every file is named through /proc/PID, so that containers, other roots and binaries deleted by an upgrade are reached as
the process sees them; a file's identity is (device, inode), as the kernel's uprobes have it.
"""

import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_QEMU = re.compile(r"^(qemu-system-[\w-]+|qemu-kvm|kvm)( \(deleted\))?$")
_LIBRBD = re.compile(r"/librbd\.so[.\d]*( \(deleted\))?$")
_BLOCK_RBD = re.compile(r"/block-rbd\.so( \(deleted\))?$")


@dataclass(frozen=True)
class MappedFile:
    """
    A file as one process has it.

    Attributes:
        name: its path as that process sees it, for people.
        path: where we can open and attach to it, below /proc/PID.
        device, inode: its identity; one attachment serves all processes of an inode.
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
        pid, start_ticks: together they name a process for ever; pids are used again.
        executable: the QEMU binary.
        librbd, block_rbd: the shared objects it has mapped; None without RBD, and block_rbd None where rbd is built in.
        uuid: of the ``-uuid`` argument, which libvirt always gives.
    """

    pid: int
    start_ticks: int
    executable: MappedFile
    librbd: MappedFile | None
    block_rbd: MappedFile | None
    uuid: str | None


def qemu_pids(proc: Path = PROC) -> Iterator[int]:
    """Process ids of every QEMU that we may see; one readlink a process, nothing more."""
    for pid in sorted(int(entry.name) for entry in os.scandir(proc) if entry.name.isdigit()):
        try:
            if _QEMU.match((proc / str(pid) / "exe").readlink().name):
                yield pid
        except OSError:
            continue  # it ended meanwhile, is a kernel thread, or another user's (`probe.rights` says what is missing)


def read_process(pid: int, proc: Path = PROC) -> QemuProcess:
    """
    Everything about one process.

    Raises:
        OSError: it has ended, or we may not look at it.
    """
    directory = proc / str(pid)
    librbd, block_rbd = _mapped(directory, _LIBRBD), _mapped(directory, _BLOCK_RBD)
    return QemuProcess(pid, start_ticks(pid, proc), _executable(directory), librbd, block_rbd, _uuid(directory))


def start_ticks(pid: int, proc: Path = PROC) -> int:
    """When a process started, in clock ticks since boot (proc(5), stat field 22)."""
    stat = (proc / str(pid) / "stat").read_text(errors="replace")
    return int(stat.rpartition(")")[2].split()[19])


def _executable(directory: Path) -> MappedFile:
    path = directory / "exe"
    status = path.stat()
    return MappedFile(os.readlink(path), str(path), status.st_dev, status.st_ino)


def _mapped(directory: Path, wanted: re.Pattern[str]) -> MappedFile | None:
    """The first executable mapping whose file name fits, opened by the map itself where we may."""
    for line in (directory / "maps").read_text(errors="replace").splitlines():
        span, flags, _offset, _device, _inode, *name = line.split(maxsplit=5)
        if "x" in flags and name and wanted.search(name[0]):
            for path in (directory / "map_files" / _canonical(span), directory / "root" / name[0].lstrip("/")):
                try:
                    status = path.stat()
                except OSError:
                    continue  # map_files needs CAP_CHECKPOINT_RESTORE; below root, a deleted file is gone
                return MappedFile(name[0], str(path), status.st_dev, status.st_ino)
    return None


def _canonical(span: str) -> str:
    """map_files leaves out the leading zeros that maps prints."""
    return "-".join(f"{int(end, 16):x}" for end in span.split("-"))


def _uuid(directory: Path) -> str | None:
    arguments = (directory / "cmdline").read_bytes().split(b"\0")
    for option, value in itertools.pairwise(arguments):
        if option in (b"-uuid", b"--uuid"):
            return value.decode(errors="replace").lower()
    return None
