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
_QEMU = re.compile(r"(qemu-system-[\w-]+|qemu-kvm|kvm)( \(deleted\))?")
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
        unreachable: names of those that it has mapped and that we cannot open.
        uuid: of the ``-uuid`` argument, which libvirt always gives.
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
        """Of the file systems that may have its debug files: its own, then ours."""
        return PROC / str(self.pid) / "root", Path("/")


def qemu_pids(proc: Path = PROC) -> Iterator[int]:
    """Process ids of every QEMU that we may see; one readlink a process, nothing more."""
    for pid in sorted(int(entry.name) for entry in os.scandir(proc) if entry.name.isdigit()):
        try:
            if _QEMU.fullmatch((proc / str(pid) / "exe").readlink().name):
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
    found = [_mapped(directory, wanted) for wanted in (_LIBRBD, _BLOCK_RBD)]
    librbd, block_rbd = (file if isinstance(file, MappedFile) else None for file in found)
    unreachable = tuple(file for file in found if isinstance(file, str))
    executable, uuid = _executable(directory), _uuid(directory)
    return QemuProcess(pid, start_ticks(pid, proc), executable, librbd, block_rbd, uuid, unreachable)


def start_ticks(pid: int, proc: Path = PROC) -> int:
    """
    When a process started, in clock ticks since boot (proc(5), stat field 22).

    Raises:
        OSError: it has ended, even if nobody has waited for it yet.
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
    """The first executable mapping whose file name fits, by the map itself where we may; its name if we may not."""
    for line in (directory / "maps").read_text(errors="replace").splitlines():
        span, flags, _offset, _device, inode, *name = line.split(maxsplit=5)
        if "x" in flags and name and wanted.search(name[0]):
            return _opened(directory, span, int(inode), name[0]) or name[0]
    return None


def _opened(directory: Path, span: str, inode: int, name: str) -> MappedFile | None:
    """
    The file behind a mapping, by whatever path we may open it.

    map_files needs CAP_CHECKPOINT_RESTORE and CAP_DAC_READ_SEARCH, and a deleted file is nowhere else.  The kernel
    prints names as seen from our root: of a process in a container that is a path within its own, of one in a chroot
    a path of ours, which is believed if the inode is right.
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
    """map_files leaves out the leading zeros that maps prints."""
    return "-".join(f"{int(end, 16):x}" for end in span.split("-"))


def _uuid(directory: Path) -> str | None:
    arguments = (directory / "cmdline").read_bytes().split(b"\0")
    for option, value in itertools.pairwise(arguments):
        if option in (b"-uuid", b"--uuid"):
            return value.decode(errors="replace").lower()
    return None
