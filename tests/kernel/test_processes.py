# SPDX-License-Identifier: Apache-2.0
"""QEMU processes come, go, are upgraded, killed and put into containers; each is traced while it runs, once."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_qemu.probe.processes import qemu_pids, read_process
from tests.kernel.fake.build import BLOCK_RBD, EXECUTABLE, LIBRBD, QEMU_7_2, QEMU_11_1, built
from tests.kernel.fake_qemu import FakeQemu
from tests.kernel.tracing import Tracing

EMPTY = {"processes": 0, "requests": 0, "calls": 0, "held": 0}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return binaries with inodes of their own."""
    return Path(shutil.copytree(built(QEMU_7_2), tmp_path / "qemu"))


def replace(folder: Path, source: Path) -> None:
    """Replace binaries as a package upgrade does: new files take the names, and the old inodes live on."""
    for name in (EXECUTABLE, LIBRBD, BLOCK_RBD):
        shutil.copy(source / name, folder / "new")
        (folder / "new").replace(folder / name)


def assert_traced(tracing: Tracing, qemu: FakeQemu, count: int) -> None:
    """Check that each request of this process is seen once, with its process id."""
    tracing.counted()
    tracing.records()
    qemu.command(f"read {count} 4096 8")
    names = ("scsi_submitted", "scsi_completed", "rbd_submitted", "rbd_completed", "parent_found", "records")
    assert tracing.counted() == dict.fromkeys(names, count)
    assert set(tracing.records()["pid"].tolist()) == {qemu.pid}


def test_a_qemu_is_known_by_the_name_of_its_executable() -> None:
    """Discovery finds it among all processes, with the files it has mapped."""
    with FakeQemu() as qemu:
        assert qemu.pid in set(qemu_pids())
        process = read_process(qemu.pid)
        files = {file.name: file.inode for file in (process.executable, process.librbd, process.block_rbd) if file}
    folder = built(QEMU_7_2)
    assert files == {str(folder / n): (folder / n).stat().st_ino for n in (EXECUTABLE, LIBRBD, BLOCK_RBD)}


def test_a_killed_process_leaves_nothing_behind(copy: Path) -> None:
    """SIGKILL with requests and held calls in flight: the next look drops what it had, and detaches."""
    with FakeQemu(folder=copy) as qemu, Tracing(qemu) as tracing:
        qemu.command("hold")
        qemu.command("read 211 4096")
        qemu.command("orphan 23")
        assert tracing.map_entries() == {"processes": 1, "requests": 211, "calls": 234, "held": 0}
        qemu.kill()
        tracing.tracer.refresh()
        assert (tracing.map_entries(), tracing.attached, tracing.tracer.abandoned) == (EMPTY, 0, 211 + 234)
        assert len(tracing.tracer._program.in_flight()) == 0


def test_two_processes_of_one_binary_share_its_probes(copy: Path) -> None:
    """One attachment a file, however many run it; each hit is counted once, under its process."""
    with FakeQemu(folder=copy) as one, FakeQemu(folder=copy) as other, Tracing(one, other) as tracing:
        assert tracing.attached == 2
        assert_traced(tracing, one, 23)
        assert_traced(tracing, other, 211)
        one.kill()
        tracing.tracer.refresh()
        assert tracing.attached == 2
        assert_traced(tracing, other, 23)
        other.kill()
        tracing.tracer.refresh()
        assert tracing.attached == 0


def test_a_process_that_nobody_asked_for_is_only_counted(copy: Path) -> None:
    """Probes sit in a file, so others that run it hit them too: counted as foreign, and nothing else is kept."""
    with FakeQemu(folder=copy) as chosen, FakeQemu(folder=copy) as other, Tracing(chosen) as tracing:
        other.command("read 211 4096 8")
        assert tracing.counted() == {"foreign": 4 * 211}
        assert_traced(tracing, chosen, 23)


def test_processes_that_start_later_are_taken_in(copy: Path) -> None:
    """A look finds what has started since, also of another version."""
    with Tracing() as tracing, FakeQemu(folder=copy) as first, FakeQemu(QEMU_11_1) as second:
        first.command("read 23 4096")
        assert tracing.counted() == {}
        for attached, qemu in ((2, first), (4, second)):
            tracing.selection.qemus.append(qemu)
            tracing.tracer.refresh()
            assert tracing.attached == attached
            assert_traced(tracing, qemu, 23)
        assert_traced(tracing, first, 211)


def test_an_upgrade_under_a_running_process(copy: Path) -> None:
    """Old and new binaries behind one path, the old one deleted: both are traced, each with its own layout."""
    with FakeQemu(folder=copy) as old:
        replace(copy, built(QEMU_11_1))
        with FakeQemu(QEMU_11_1, folder=copy) as new, Tracing(old, new) as tracing:
            before, after = sorted(tracing.tracer.inspections, key=lambda found: found.process.pid != old.pid)
            assert before.process.executable.name.endswith(f"{EXECUTABLE} (deleted)")
            assert (before.layout.tag, after.layout.tag) == (0x1C, 0x24)
            assert tracing.attached == 4
            assert_traced(tracing, old, 23)
            assert_traced(tracing, new, 211)


def test_the_first_rbd_disk_is_plugged_in_later() -> None:
    """A guest that has no rbd disk yet, or has not loaded librbd when it is found: its calls are seen once it has."""
    with FakeQemu(rbd=False) as qemu, Tracing(qemu) as tracing:
        qemu.load_rbd()
        tracing.tracer.refresh()
        assert_traced(tracing, qemu, 23)


@pytest.fixture
def hidden(tmp_path: Path) -> Iterator[FakeQemu]:
    """A QEMU in a mount namespace where its binaries have a path that we do not have."""
    inside = tmp_path / "inside"
    inside.mkdir()
    script = f'mount --bind {built(QEMU_7_2)} {inside} && exec "$@"'
    with FakeQemu(inside=inside, wrapper=("unshare", "-m", "sh", "-c", script, "sh")) as qemu:
        assert not any(inside.iterdir())
        yield qemu


def test_a_process_in_another_mount_namespace(hidden: FakeQemu) -> None:
    """Its files are reached through /proc, as it sees them."""
    with Tracing(hidden) as tracing:
        assert_traced(tracing, hidden, 211)


def test_a_process_in_another_root(tmp_path: Path) -> None:
    """chroot: the same."""
    shutil.copytree(built(QEMU_7_2), tmp_path / "usr/bin")
    for library in ("/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6"):
        place = tmp_path / library.lstrip("/")
        place.parent.mkdir(parents=True)
        shutil.copy(library, place)
    with FakeQemu(inside=Path("/usr/bin"), wrapper=("chroot", str(tmp_path))) as qemu, Tracing(qemu) as tracing:
        assert tracing.tracer.inspections[0].process.librbd is not None
        assert_traced(tracing, qemu, 211)
