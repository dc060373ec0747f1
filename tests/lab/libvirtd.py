# SPDX-License-Identifier: Apache-2.0
"""
libvirt's daemons: those already running are used and left alone, otherwise our own are started and stopped.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import libvirt

from tests.lab import processes
from tests.lab.errors import LabError
from tests.lab.state import State

URI = "qemu:///system"
RUN = Path("/run/libvirt")
KVM = Path("/dev/kvm")
CGROUPS = Path("/sys/fs/cgroup")
# Labs at different roots share the daemons, so these have a state of their own, changed by one lab at a time.
SHARED = Path("/run/otel-qemu-lab")
USERS = "users"
DAEMONS = ("virtlogd", "libvirtd")
REAPER = Path(__file__).with_name("reaper.py")
WITHOUT_KVM = Path(__file__).with_name("without_kvm.sh")

# The binding would print every error to stderr by itself.
libvirt.registerErrorHandler(lambda _context, _error: None, None)


def is_answering() -> bool:
    """Whether a libvirtd answers on qemu:///system."""
    try:
        libvirt.open(URI).close()
    except libvirt.libvirtError:
        return False
    return True


def up(user: Path, timeout_s: float = 120) -> str:
    """Have a libvirtd for the lab at `user`; says whose it is."""
    with _shared() as state:
        (state.root / USERS / _user_name(user)).write_text(str(user))
        if is_answering():
            return "libvirtd was already running"
        for leftover in _leftovers():
            expect_leftover(state, leftover)
        for daemon in DAEMONS:
            _start(state, daemon)
        deadline = time.monotonic() + timeout_s
        while not is_answering():
            _check(state, deadline, timeout_s)
            time.sleep(0.05)
        return "virtlogd and libvirtd started"


def down(user: Path) -> None:
    """Take the lab at `user` off the list; the last one stops the daemons that are ours."""
    if not SHARED.exists():
        return
    with _shared() as state:
        (state.root / USERS / _user_name(user)).unlink(missing_ok=True)
        if _users(state):
            return
        for daemon in reversed(DAEMONS):
            processes.stop(state, daemon)
        # Somebody else's guest may have been started meanwhile; it needs its files.
        if not list(RUN.glob("qemu/*.pid")):
            state.remove_leftovers()
        state.erase()


@contextlib.contextmanager
def _shared() -> Iterator[State]:
    # The lock is on a folder that is always there, so that no lock file is left.
    lock = os.open(SHARED.parent, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = State.load(SHARED) or State.create(SHARED)
        (SHARED / USERS).mkdir(exist_ok=True)
        yield state
    finally:
        os.close(lock)


def _leftovers() -> Iterator[Path]:
    # What libvirtd makes on its first start and keeps; its cache of QEMU's capabilities stays, being a cache.
    yield RUN
    for name in ("checkpoint", "dump", "nvram", "ram", "save", "snapshot"):
        yield Path("/var/lib/libvirt/qemu") / name
    for controller in (CGROUPS, *CGROUPS.iterdir()):
        yield controller / "machine"


def _user_name(user: Path) -> str:
    return hashlib.sha256(str(user).encode()).hexdigest()[:16]


def _users(state: State) -> list[Path]:
    # A lab whose files were removed by hand no longer counts.
    roots = [Path(entry.read_text()) for entry in (state.root / USERS).iterdir()]
    return [root for root in roots if State(root).path.exists()]


def _start(state: State, daemon: str) -> None:
    pid_file = str(state.root / f"{daemon}.pid")
    program = shutil.which(daemon, path="/usr/sbin:/sbin:/usr/bin:/bin") or daemon
    command = [sys.executable, str(REAPER), program, "--pid-file", pid_file]
    processes.start(state, daemon, [*_without_kvm(state, daemon), *command], pid_file, _log(state, daemon))


def _without_kvm(state: State, daemon: str) -> list[str]:
    # On most machines udev lets QEMU's user open the device; see the script for those where nobody does.
    if not KVM.exists() or KVM.stat().st_mode & 0o060:
        return []
    empty = state.root / f"{daemon}-dev"
    empty.mkdir(exist_ok=True)
    return ["sh", str(WITHOUT_KVM), str(empty)]


def _log(state: State, daemon: str) -> Path:
    return state.root / f"{daemon}.log"


def _check(state: State, deadline: float, timeout_s: float) -> None:
    for daemon in DAEMONS:
        processes.check_alive(state.processes[daemon], _log(state, daemon))
    if time.monotonic() > deadline:
        raise LabError(f"no answer in {timeout_s:.0f} s, libvirtd on {URI}: see {_log(state, 'libvirtd')}")


def connect() -> libvirt.virConnect:
    """A connection to qemu:///system."""
    try:
        return libvirt.open(URI)
    except libvirt.libvirtError as error:
        raise LabError(f"libvirtd does not answer, {URI}: is the lab up? ({error})") from error


def destroy(uuid: str) -> None:
    """Destroy a domain; one that is gone already is fine."""
    connection = connect()
    try:
        connection.lookupByUUIDString(uuid).destroy()
    except libvirt.libvirtError as error:
        if error.get_error_code() not in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID):
            raise LabError(f"cannot destroy domain, {uuid}: virsh destroy {uuid} ({error})") from error
    finally:
        connection.close()


def log_file(name: str) -> Path:
    """Where libvirt logs a domain's QEMU; it outlives the domain."""
    return Path("/var/log/libvirt/qemu") / f"{name}.log"


def expect_leftover(state: State, path: Path) -> None:
    """Have something removed at the end that libvirt is about to make; what is there already is not ours."""
    if not path.exists() and str(path) not in state.leftovers:
        state.leftovers.append(str(path))
        state.save()
