# SPDX-License-Identifier: Apache-2.0
"""The lab itself: requests are what was asked for, counted the same by all; and it goes without a trace."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.children import child
from tests.lab import libvirtd
from tests.lab.disk import Disk
from tests.lab.errors import GuestError, LabError
from tests.lab.guest import Guest
from tests.lab.lab import Lab, down
from tests.lab.load import dd_write, fio_random
from tests.lab.roots import NEWEST
from tests.lab.state import State
from tests.lab.workload import Request, Workload, run_all

CHECKOUT = Path(__file__).parents[2]
DISKS = [Disk("lab-root", size_mib=64), Disk("lab-data", size_mib=32, bytes_per_s=40_000_000)]


@pytest.fixture(scope="module")
def guest(lab: Lab) -> Iterator[Guest]:
    """A guest with two disks that was started paused."""
    guest = lab.guest("lab-guest", DISKS, paused=True)
    assert set(guest.block_counts()) == {"ua-ceph-lab-root", "ua-ceph-lab-data"}
    guest.resume()
    yield guest
    guest.destroy()


@pytest.fixture
def root(lab: Lab) -> Iterator[Path]:
    """A folder for a second lab; `lab` shows that one can be had here."""
    root = Path(tempfile.gettempdir()) / f"otel-qemu-lab-{os.getpid()}-other"
    yield root
    down(root)
    shutil.rmtree(root, ignore_errors=True)


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``python3 -m tests.lab``."""
    line = [sys.executable, "-m", "tests.lab", *arguments]
    env = {**os.environ, **environment}
    return subprocess.run(line, cwd=CHECKOUT, env=env, capture_output=True, text=True, timeout=300, check=False)


def left_of(name: Path | str) -> list[str]:
    """Whatever is left of a lab's folder, or of a domain's UUID: files, mounts, processes."""
    command_lines = []
    for entry in Path("/proc").iterdir():
        try:
            command_lines.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    left = [line for line in [*command_lines, *Path("/proc/mounts").read_text().splitlines()] if str(name) in line]
    return left + [str(name)] * Path(name).exists()


def test_every_request_is_one_command(guest: Guest) -> None:
    """Two disks at once: the list, the guest kernel's counts and QEMU's are equal, in requests and in bytes."""
    workloads = {guest.device(disk): Workload.mixed(seed, disk.size_bytes) for seed, disk in enumerate(DISKS)}
    guest_before, qemu_before = guest.guest_counts(), guest.block_counts()

    run_all(guest, workloads)

    guest_after, qemu_after = guest.guest_counts(), guest.block_counts()
    for disk in DISKS:
        device = guest.device(disk)
        assert guest_after[device] - guest_before[device] == workloads[device].guest_counts()
        assert qemu_after[disk.alias] - qemu_before[disk.alias] == workloads[device].block_counts()


def test_workload_is_what_was_ordered() -> None:
    """The numbers are those asked for, all within the disk, and the same for the same seed."""
    workload = Workload.mixed(7, disk_bytes=2 << 20, writes=11, reads=13, flushes=3, discards=5)

    assert [workload.count(kind) for kind in ("write", "read", "flush", "discard")] == [11, 13, 3, 5]
    assert all(request.offset + request.length <= 2 << 20 for request in workload.requests)
    assert workload == Workload.mixed(7, disk_bytes=2 << 20, writes=11, reads=13, flushes=3, discards=5)


def test_request_that_would_be_split_is_refused(guest: Guest) -> None:
    """A list that the guest's kernel would cut into other requests never runs."""
    with pytest.raises(GuestError, match="would be split"):
        Workload((Request("write", 0, 8 << 20),)).run(guest, guest.device(DISKS[0]))


def test_fio_says_how_much_it_did(guest: Guest) -> None:
    """fio's own numbers are QEMU's."""
    disk = DISKS[0]
    before = guest.block_counts()[disk.alias]

    done = fio_random(guest, guest.device(disk), requests=997, options="--fsync=50")

    counted = guest.block_counts()[disk.alias] - before
    assert (done.reads, done.writes, done.syncs) == (counted.reads, counted.writes, counted.flushes)
    assert done.reads + done.writes == 997


def test_dd_writes_all_bytes(guest: Guest) -> None:
    """A plain dd through the page cache, however it is cut."""
    before = guest.block_counts()[DISKS[0].alias]

    dd_write(guest, guest.device(DISKS[0]), mib=16)

    assert (guest.block_counts()[DISKS[0].alias] - before).write_bytes == 16 << 20


def test_command_that_fails_in_the_guest(guest: Guest) -> None:
    """Status and output of a failed command come back as an error, and so does a command that takes too long."""
    with pytest.raises(GuestError, match="status 3") as failed:
        guest.run("echo before; echo beside >&2; exit 3")
    assert failed.value.output == "before\nbeside\n"
    with pytest.raises(GuestError, match="killed after 1 s"):
        guest.run("sleep 60", timeout_s=1)
    assert guest.run("echo still here") == "still here\n"


def test_guest_that_cannot_boot(lab: Lab) -> None:
    """Too little memory: an error with the end of its console, not a wait."""
    with pytest.raises(GuestError, match=r"QEMU ended.*lab-small") as failed:
        lab.guest("lab-small", memory_mib=128)
    assert "memory" in failed.value.output


def test_shutdown_is_awaited(lab: Lab) -> None:
    """A guest that was powered off is gone, process and domain, and can be started again with its UUID."""
    first = lab.guest("lab-again")
    pid, uuid = first.pid, first.uuid

    first.shutdown()

    assert not first.is_running()
    assert not Path(f"/proc/{pid}/exe").exists()
    second = lab.guest("lab-again")
    assert second.uuid == uuid
    second.destroy()


def test_osd_can_stop_and_come_back(lab: Lab, guest: Guest) -> None:
    """A frozen and a stopped OSD hold requests back; both go on afterwards, with the data still there."""
    device = guest.device(DISKS[0])
    guest.run(f"echo kept > /tmp/word; dd if=/tmp/word of=/dev/{device} conv=fsync")
    read = f"dd if=/dev/{device} bs=512 count=1 iflag=direct 2>/dev/null | head -c 4"
    lab.ceph.pause_osd()
    with pytest.raises(GuestError, match=r"killed after|no answer"):
        guest.run(read, timeout_s=1)
    lab.ceph.resume_osd()
    assert guest.run(read) == "kept"

    lab.ceph.stop_osd()
    lab.ceph.start_osd()

    assert guest.run(read) == "kept"


def test_down_leaves_nothing(root: Path) -> None:
    """By hand: up, a guest, down; then no process, mount, domain or file is left, and a second down says so."""
    libvirt_was_there = libvirtd.SHARED.exists() or libvirtd.RUN.exists()
    assert command("up", "--root", str(root)).returncode == 0
    done = command("guest", "lab-hand", "--root", str(root), "--disk", "hand:16", "--run", "cat /proc/partitions")
    assert "sda" in done.stdout, done.stderr
    state = State.load(root)
    assert state is not None

    assert command("down", "--root", str(root)).returncode == 0
    assert command("down", "--root", str(root)).returncode == 0

    assert left_of(root) == []
    assert not libvirtd.log_file("lab-hand").exists()
    assert libvirt_was_there or not (libvirtd.SHARED.exists() or libvirtd.RUN.exists())
    assert left_of(state.domains["lab-hand"].uuid) == []


@pytest.mark.parametrize("step", ["state in", "guest kernel", "libvirtd", "ceph monitor", "lab is up"])
def test_down_after_a_crash(root: Path, step: str) -> None:
    """`up` killed at any of its steps: `down` finds all that was started."""
    line = [sys.executable, "-m", "tests.lab", "up", "--root", str(root)]
    with child(line, cwd=CHECKOUT, stderr=subprocess.PIPE) as up:
        assert up.stderr is not None
        assert any(step in said for said in up.stderr)
        up.kill()

    assert command("down", "--root", str(root)).returncode == 0

    assert left_of(root) == []


def test_down_by_the_state_file_alone(root: Path) -> None:
    """Guests and clients go too, though nobody holds the lab, and a frozen OSD does not stop it."""
    lab = Lab.up(root)
    guests = [lab.guest(f"lab-{suite}", [Disk(f"{suite}")], paused=True, suite=suite) for suite in (None, NEWEST)]
    # As if killed between the start of this guest's QEMU and the note of its process id.
    lab.state.processes[f"guest=lab-{NEWEST}"].pid = 0
    lab.state.save()
    lab.ceph.pause_osd()
    rbd = ["rbd", "--conf", str(lab.ceph.conf), "--pool", "rbd", "create", "--size", "1", "never-made"]
    with child(rbd, stderr=subprocess.DEVNULL) as client:
        down(root)

        client.wait(timeout=60)
    assert [left for name in [str(root), *(guest.uuid for guest in guests)] for left in left_of(name)] == []


def test_taken_port(root: Path) -> None:
    """A port that somebody listens on is refused in one line, before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = command("up", "--root", str(root), "--port", str(port))

    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"error: port is taken, 127.0.0.1:{port}: leave out --port, or choose another one"
    ]
    assert left_of(root) == []


def test_missing_program(root: Path) -> None:
    """A missing program is named together with its Debian package."""
    done = command("up", "--root", str(root), PATH="/nowhere")

    assert done.returncode == 1
    assert done.stderr == "error: program missing, ceph-mon: apt-get install ceph-mon\n"
    assert left_of(root) == []


def test_lab_is_already_there(lab: Lab) -> None:
    """A second `up` at the same place changes nothing."""
    with pytest.raises(LabError, match="already there"):
        Lab.up(lab.root)
    assert "1 up" in lab.ceph.command("osd", "stat")


def test_no_disk_space(root: Path) -> None:
    """A file system that is too small is named, with what it would take, before anything is started."""
    root.mkdir(mode=0o755)
    script = f'mount -t tmpfs -o size=8m,mode=755 none {root} && exec "$@"'
    line = [sys.executable, "-m", "tests.lab", "up", "--root", str(root / "lab")]

    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *line],
        cwd=CHECKOUT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    root.rmdir()

    assert done.returncode == 1
    assert done.stderr.startswith(f"error: no space, {root} has ")
    assert done.stderr.count("\n") == 1
