# SPDX-License-Identifier: Apache-2.0
"""`otel-qemu run` as the unit runs it: it reports to its manager, and needs no more rights than the unit gives."""

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.children import child
from tests.kernel.fake_qemu import FakeQemu
from tests.kernel.unit_file import allowed_system_calls, capabilities, directive
from tests.kernel.unprivileged import PYTHON, ROOT, as_nobody, environment

TIMEOUT_S = 60
EVERYTHING = ("--one-in", "1", "--look-interval", "1s")
MAIN = "import sys; from otel_qemu.cli import main; sys.exit(main(sys.argv[1:]))"
# MemoryDenyWriteExecute= of newer systemd, which is prctl(2) PR_SET_MDWE; it is inherited.
MDWE = "import ctypes, os, sys; assert not ctypes.CDLL(None).prctl(65, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
HIDE_MODULES = 'mount -t tmpfs none /usr/lib/modules && exec "$@"'


class Manager:
    """A service manager that listens on an abstract address, which every user can reach."""

    def __init__(self) -> None:
        self.name = f"@otel-qemu-test-{time.monotonic_ns()}"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{self.name[1:]}")
        self.states: list[str] = []

    def wait_for(self, beginning: str) -> str:
        """Return the next state that begins so; all states so far are in `states`."""
        deadline = time.monotonic() + TIMEOUT_S
        while select.select([self.socket], [], [], max(0, deadline - time.monotonic()))[0]:
            self.states.append(self.socket.recv(4096).decode())
            if self.states[-1].startswith(beginning):
                return self.states[-1]
        raise TimeoutError(f"nobody said {beginning}: {self.states}")


@pytest.fixture
def manager() -> Iterator[Manager]:
    manager = Manager()
    with manager.socket:
        yield manager


@pytest.fixture(scope="module")
def qemu() -> Iterator[FakeQemu]:
    with FakeQemu() as qemu:
        yield qemu


@contextlib.contextmanager
def service(manager: Manager, command: list[str], *options: str) -> Iterator["subprocess.Popen[str]"]:
    """Run `otel-qemu run` behind a prefix, and end it if it still runs."""
    with child(
        [*command, "-c", MAIN, "run", "--one-in", "1", *options], cwd=ROOT, stderr=subprocess.PIPE,
        env=environment(NOTIFY_SOCKET=manager.name, OTEL_SDK_DISABLED="true"),
    ) as process:  # fmt: skip
        yield process


def test_the_manager_gets_every_state(manager: Manager, qemu: FakeQemu) -> None:
    """It reports when probes are attached, each turn of the loop, its status, and that it stops."""
    with service(manager, [sys.executable], "--pid", str(qemu.pid), *EVERYTHING) as process:
        manager.wait_for("READY=1")
        assert manager.states == ["READY=1"]
        qemu.command("read 211 4096 8")
        manager.wait_for("STATUS=1 of 1 guests traced; 211 SCSI requests and 211 RBD calls kept")
        manager.wait_for("WATCHDOG=1")
        process.send_signal(signal.SIGTERM)
        manager.wait_for("STOPPING=1")
        _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, errors
    assert manager.states.count("READY=1") == 1
    assert "211 SCSI requests" in errors


def test_it_may_come_before_its_first_guest(manager: Manager) -> None:
    """Without a guest it is ready and alive, and its status says what it waits for."""
    with service(manager, [sys.executable], "--wait", "--domain", "otel-qemu-nobody") as process:
        manager.wait_for("READY=1")
        manager.wait_for("STATUS=waiting for a guest")
        manager.wait_for("WATCHDOG=1")
        process.send_signal(signal.SIGTERM)
        manager.wait_for("STOPPING=1")
        _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, errors
    assert "waiting for a guest (" in errors


def test_a_loop_that_hangs_is_not_alive(manager: Manager, qemu: FakeQemu) -> None:
    """While the process stands still, its manager hears nothing; when it goes on, it reports again."""
    with service(manager, [sys.executable], "--pid", str(qemu.pid)) as process:
        manager.wait_for("WATCHDOG=1")
        process.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        manager.socket.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while time.monotonic() < stopped + TIMEOUT_S:
                manager.socket.recv(4096)
        # Three turns of the loop; one datagram may have been under way.
        assert not select.select([manager.socket], [], [], 1.5)[0]
        process.send_signal(signal.SIGCONT)
        manager.wait_for("WATCHDOG=1")


def test_the_units_rights_suffice(manager: Manager, qemu: FakeQemu, tmp_path: Path) -> None:
    """As an ordinary user with the unit's capabilities and no others to be had, without /usr/lib/modules, and without
    memory that becomes executable, it traces; and of system calls it makes none that the unit forbids."""
    ambient, bounding = capabilities("AmbientCapabilities"), capabilities("CapabilityBoundingSet")
    limits = ["--bounding-set", ",".join(["-all", *(f"+{name}" for name in bounding)]), "--no-new-privs"]
    assert directive("NoNewPrivileges") == directive("ProtectKernelModules") == ["yes"]
    assert directive("MemoryDenyWriteExecute") == ["yes"]
    trace = tmp_path / "strace"
    command = [
        "strace", "-f", "-qq", "--signal=none", f"--output={trace}",
        "unshare", "--mount", "sh", "-c", HIDE_MODULES, "sh",
        *as_nobody(*ambient), *limits, PYTHON, "-c", MDWE, PYTHON,
    ]  # fmt: skip
    with service(manager, command, "--pid", str(qemu.pid), *EVERYTHING) as process:
        manager.wait_for("READY=1")
        qemu.command("read 211 4096 8")
        manager.wait_for("STATUS=1 of 1 guests traced; 211 SCSI requests and 211 RBD calls kept")
        (traced,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(traced), signal.SIGTERM)
        _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, errors
    _, _, ours = trace.read_text().rpartition(f'execve("{PYTHON}"')
    called = set(re.findall(r"^\d+ +(\w+)\(", ours, re.M))
    assert {"bpf", "openat", "sendto"} <= called <= allowed_system_calls()
    assert not re.search(r"mprotect\([^)]*PROT_EXEC", ours)  # which older systemd refuses, executable already or not
