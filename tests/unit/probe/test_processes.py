# SPDX-License-Identifier: Apache-2.0
"""QEMU processes out of /proc: what is one, what it has mapped, and processes that end while we look."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from otel_qemu.probe.processes import QemuProcess, qemu_pids, read_process, start_ticks

UUID = "6F0B1F7E-0000-4000-8000-000000000001"
COMMAND = ("qemu-system-x86_64", "-name", "guest=alpha", "-uuid", UUID, "-S")
LIBRBD = "/usr/lib/x86_64-linux-gnu/librbd.so.1.16.0"
BLOCK_RBD = "/usr/lib/x86_64-linux-gnu/qemu/block-rbd.so"


def maps_line(name: str, start: int = 0x7F00_0000_0000, flags: str = "r-xp") -> str:
    """A line of /proc/PID/maps, as fs/proc/task_mmu.c prints it."""
    return f"{start:08x}-{start + 0x1000:08x} {flags} 00001000 fe:00 1234                       {name}\n"


class FakeProc:
    """A tree that looks like /proc, with processes that a test describes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "self").mkdir()
        (root / "meminfo").write_text("")

    def add(
        self, pid: int, exe: str = "/usr/bin/qemu-system-x86_64", comm: str = "qemu-system-x86", maps: str = "",
        command: tuple[str, ...] = COMMAND,
    ) -> Path:  # fmt: skip
        """A process whose executable exists under the name that the link has, as the magic link of /proc does."""
        directory = self.root / str(pid)
        (directory / "map_files").mkdir(parents=True)
        target = self.root / "files" / exe.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("binary")
        (directory / "exe").symlink_to(target)
        fields = " ".join(["S", *map(str, range(4, 22)), "987654", *map(str, range(23, 53))])
        (directory / "stat").write_text(f"{pid} ({comm}) {fields}\n")
        (directory / "maps").write_text(maps)
        (directory / "cmdline").write_bytes(b"".join(part.encode() + b"\0" for part in command))
        return directory


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path)


def found(proc: FakeProc) -> list[int]:
    return list(qemu_pids(proc.root))


def seven(proc: FakeProc) -> QemuProcess:
    return read_process(7, proc.root)


@pytest.mark.parametrize(
    "name",
    [
        *("qemu-system-x86_64", "qemu-system-aarch64", "qemu-kvm", "kvm", "qemu-system-x86_64-spice"),
        *("qemu-system-x86_64 (deleted)", "qemu-kvm (deleted)"),
    ],
)
def test_finds_qemu_by_its_executable(proc: FakeProc, name: str) -> None:
    """Every distribution's name of the emulator, also after an upgrade has replaced the file."""
    proc.add(7, f"/usr/libexec/{name}")
    assert found(proc) == [7]


@pytest.mark.parametrize(
    "name",
    [
        *("qemu-img", "qemu-nbd", "qemu-storage-daemon", "qemu-system-", "qemu-x86_64", "bash", "kvm-clock", "xkvm"),
        *("not-qemu-kvm", "qemu-kvm.bak", "qemu-system-x86_64 (copy)", "qemu-kvm\n"),
    ],
)
def test_leaves_everything_else_alone(proc: FakeProc, name: str) -> None:
    """Tools of QEMU and programs whose names only look alike are not guests."""
    proc.add(7, f"/usr/bin/{name}")
    assert found(proc) == []


def test_tells_what_a_process_is(proc: FakeProc) -> None:
    """Identity, executable and UUID, which is in lower case as libvirt has it."""
    directory = proc.add(7)
    process = seven(proc)
    status = (directory / "exe").stat()

    assert (process.pid, process.start_ticks, process.uuid) == (7, 987654, UUID.lower())
    assert process.executable.path == str(directory / "exe")
    assert process.executable.identity == (status.st_dev, status.st_ino)
    assert process.executable.name.endswith("/usr/bin/qemu-system-x86_64")
    assert (process.librbd, process.block_rbd) == (None, None)


@pytest.mark.parametrize("comm", ["CPU 0/KVM", "a) R 1 (b", ") S 1 2 3", "((", "qemu\n)"])
def test_a_command_name_may_hold_anything(proc: FakeProc, comm: str) -> None:
    """Spaces and parentheses in the name do not shift the fields behind it."""
    proc.add(7, comm=comm)
    assert start_ticks(7, proc.root) == 987654


@pytest.mark.parametrize(
    ("command", "uuid"),
    [
        (("qemu", "-uuid", "AB"), "ab"),
        (("qemu", "--uuid", "AB"), "ab"),
        (("qemu", "-uuid"), None),
        (("qemu",), None),
        ((), None),
        (("qemu", "-uuid", "\xff"), "\xff"),
    ],
)
def test_the_uuid_is_the_argument(proc: FakeProc, command: tuple[str, ...], uuid: str | None) -> None:
    """Present, absent, without its value, or on a process that has given its command line up."""
    proc.add(7, command=command)
    assert (seven(proc).uuid or None) == uuid


class TestMappings:
    """Shared objects, out of maps."""

    def test_opens_the_mapping_itself(self, proc: FakeProc) -> None:
        """map_files has leading zeros left out, and reaches a deleted file."""
        directory = proc.add(7, maps=maps_line(f"{LIBRBD} (deleted)", 0x55_0000))
        (directory / "map_files" / "550000-551000").write_text("librbd")
        librbd = seven(proc).librbd
        assert librbd is not None
        assert (librbd.name, librbd.path) == (
            f"{LIBRBD} (deleted)",
            str(directory / "map_files" / "550000-551000"),
        )

    def test_falls_back_to_the_root(self, proc: FakeProc) -> None:
        """Without the right to map_files, the file is opened below the process's own root."""
        directory = proc.add(7, maps=maps_line(LIBRBD) + maps_line(BLOCK_RBD, 0x7F00_0001_0000))
        for name in (LIBRBD, BLOCK_RBD):
            path = directory / "root" / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("library")
        process = seven(proc)
        assert process.librbd is not None
        assert process.librbd.path == f"{directory}/root{LIBRBD}"
        assert process.block_rbd is not None
        assert process.librbd.identity != process.block_rbd.identity

    def test_a_file_out_of_reach_is_not_there(self, proc: FakeProc) -> None:
        """A deleted librbd that only map_files could reach, without the right to it."""
        proc.add(7, maps=maps_line(f"{LIBRBD} (deleted)"))
        assert seven(proc).librbd is None

    @pytest.mark.parametrize(
        "name",
        ["", "[heap]", "/usr/lib/librbd.so.1.16.0.bak", "/usr/lib/libmyrbd.so.1", "/memfd:librbd (deleted)"],
    )
    def test_other_mappings_are_passed_by(self, proc: FakeProc, name: str) -> None:
        """Anonymous memory and files of other names, also with spaces in them."""
        directory = proc.add(7, maps=maps_line(name) + maps_line("/a dir/librbd.so.1 ", 0x10_0000))
        (directory / "map_files" / "7f0000000000-7f0000001000").write_text("")
        assert seven(proc).librbd is None

    def test_only_code_counts(self, proc: FakeProc) -> None:
        """The mapping of data is not where probes go."""
        directory = proc.add(7, maps=maps_line(LIBRBD, flags="r--p"))
        (directory / "map_files" / "7f0000000000-7f0000001000").write_text("")
        assert seven(proc).librbd is None


class TestEnding:
    """Processes that end, and others that may not be looked at."""

    @pytest.mark.parametrize("name", ["exe", "maps", "stat", "cmdline"])
    def test_a_process_may_end_at_every_step(self, proc: FakeProc, name: str) -> None:
        """Whatever is gone first, it is an OSError, and the next process is found."""
        (proc.add(7) / name).unlink()
        proc.add(8)
        with pytest.raises(FileNotFoundError):
            seven(proc)
        assert found(proc) == ([8] if name == "exe" else [7, 8])

    @pytest.mark.parametrize("step", range(4))
    def test_reading_may_fail_at_every_step(self, proc: FakeProc, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
        """The files are there, and reading one says that the process is not (ESRCH): an OSError, too."""
        proc.add(7)
        left = [step]

        def fail_once(read: Callable[..., Any]) -> Callable[..., Any]:
            def reading(*args: Any, **kwargs: Any) -> Any:
                left[0] -= 1
                if left[0] == -1:
                    raise ProcessLookupError
                return read(*args, **kwargs)

            return reading

        for name in ("read_text", "read_bytes"):
            monkeypatch.setattr(Path, name, fail_once(getattr(Path, name)))
        with pytest.raises(ProcessLookupError):
            seven(proc)
        assert left[0] < 0, "the step was reached"

    def test_a_process_of_another_user_is_passed_by(self, proc: FakeProc, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its link may not be read: it is not one of those that we may see."""
        proc.add(7)

        def refuse(_: Path) -> Path:
            raise PermissionError

        monkeypatch.setattr(Path, "readlink", refuse)
        assert found(proc) == []

    def test_a_kernel_thread_has_no_executable(self, proc: FakeProc) -> None:
        """It has no link to read, and is no QEMU."""
        (proc.add(7) / "exe").unlink()
        assert found(proc) == []


def test_reads_this_very_process() -> None:
    """The real /proc has the shape that the fake one has."""
    process = read_process(os.getpid())
    status = Path("/proc/self/exe").stat()
    assert process.executable.identity == (status.st_dev, status.st_ino)
    assert process.start_ticks > 0
    assert os.getpid() not in qemu_pids()
