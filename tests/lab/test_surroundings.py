# SPDX-License-Identifier: Apache-2.0
"""
Bad surroundings: each a one-line error that says what to do, an exit status that is not 0, and nothing left attached.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from otel_qemu.probe.elf import open_binary
from tests import children
from tests.lab.disk import Disk
from tests.lab.guest import Guest
from tests.lab.lab import Lab
from tests.lab.tracing import COMMAND, Tracing, otel_qemu, traces_of

DISK = Disk("surroundings")


@pytest.fixture(scope="module")
def guest(lab: Lab) -> Iterator[Guest]:
    guest = lab.guest("surroundings", disks=[DISK])
    yield guest
    guest.destroy()


@pytest.fixture(autouse=True)
def _nothing_left_attached(guest: Guest) -> Iterator[None]:
    """After each test the first bytes of a probed function are the file's own again: no breakpoint, no call."""
    yield
    with open_binary(f"/proc/{guest.pid}/exe") as binary:
        function = binary.function("scsi_req_enqueue")
        assert function is not None
        code = binary.code(function.offset, 5)
    assert _memory_at(guest.pid, function.offset, 5) == code


def _memory_at(pid: int, file_offset: int, size: int) -> bytes:
    """Bytes of a process's memory that were mapped from its executable at a file offset."""
    executable = os.readlink(f"/proc/{pid}/exe")
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, _flags, offset, _device, _inode, *name = line.split(maxsplit=5)
        start, end = (int(part, 16) for part in span.split("-"))
        if name == [executable] and int(offset, 16) <= file_offset < int(offset, 16) + end - start:
            with open(f"/proc/{pid}/mem", "rb") as memory:
                memory.seek(start + file_offset - int(offset, 16))
                return memory.read(size)
    raise AssertionError(f"{executable} is not mapped at {file_offset:#x}")


def assert_refused(done: subprocess.CompletedProcess[str], status: int, *texts: str) -> None:
    """One line, ``error: ...``, with these texts in it, and this exit status."""
    assert done.returncode == status, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    for text in texts:
        assert text in done.stderr


def test_capabilities_missing(guest: Guest) -> None:
    """Without the capabilities, root gets a message that names the missing ones."""
    dropped = "-bpf,-perfmon,-sys_admin"
    line = [
        "setpriv",
        f"--bounding-set={dropped}",
        f"--inh-caps={dropped}",
        COMMAND,
        "check",
        "--pid",
        str(guest.pid),
    ]

    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)

    assert_refused(done, 4, "CAP_BPF", "CAP_PERFMON", "run as root")


@pytest.mark.parametrize("command", [["check"], ["hist", "--duration", "1"], ["run", "--duration", "1"]])
def test_no_bcc(guest: Guest, tmp_path: Path, command: list[str]) -> None:
    """Without bcc, the Debian package is named."""
    (tmp_path / "bcc.py").write_text("raise ModuleNotFoundError(\"No module named 'bcc'\")\n")

    done = otel_qemu(*command, "--pid", str(guest.pid), env={**os.environ, "PYTHONPATH": str(tmp_path)})

    assert_refused(done, 4, "no Python module bcc", "python3-bpfcc")


def test_the_other_bcc(guest: Guest, tmp_path: Path) -> None:
    """PyPI's package of that name (imitated: a module without BPF) is recognised."""
    (tmp_path / "bcc.py").write_text('"""N-dim invertible BCC lattice"""\n')

    done = otel_qemu("check", "--pid", str(guest.pid), env={**os.environ, "PYTHONPATH": str(tmp_path)})

    assert_refused(done, 4, "PyPI's unrelated package", "pip uninstall bcc")


@pytest.mark.parametrize("command", [["check"], ["hist", "--duration", "1"], ["run", "--duration", "1"]])
def test_no_qemu_process(command: list[str]) -> None:
    """In a process namespace without QEMU there is nothing to trace, and that is said."""
    line = ["unshare", "--pid", "--fork", "--mount-proc", COMMAND, *command]

    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)

    assert_refused(done, 3, "no QEMU process runs here")


def test_no_such_domain() -> None:
    """A domain that does not run is named in the error."""
    assert_refused(otel_qemu("hist", "--domain", "nobody", "--duration", "1"), 3, "nobody", "otel-qemu check")


def test_no_such_process() -> None:
    """Nor does a process that has ended."""
    ended = subprocess.Popen(["true"])
    ended.wait(60)

    assert_refused(otel_qemu("hist", "--pid", str(ended.pid), "--duration", "1"), 3, str(ended.pid))


def test_libvirt_absent(guest: Guest) -> None:
    """Without libvirtd, guests are given by process id, which is said, and tracing works."""
    script = 'mount -t tmpfs none /run/libvirt && exec "$@"'
    line = ["unshare", "--mount", "sh", "-c", script, "sh", COMMAND, "check", "--pid", str(guest.pid)]

    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stderr
    assert f"pid {guest.pid}" in done.stdout
    assert "libvirt does not answer" in done.stderr
    assert "start libvirtd" in done.stderr


def test_endpoint_down(guest: Guest) -> None:
    """With nobody listening, tracing goes on, and the loss is counted and said."""
    nobody = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    with Tracing("run", "--pid", str(guest.pid), "--one-in", "1", env=nobody) as tracing:
        guest.run("dd if=/dev/sda of=/dev/null bs=4k count=101 iflag=direct")
        assert tracing.stop() == 0

    assert "lost" in tracing.stderr
    assert "127.0.0.1:1" in tracing.stderr


def test_a_recording_cut_off(guest: Guest, tmp_path: Path) -> None:
    """A recording cut off in the middle is read up to there; that is said, and the exit status is not 0."""
    whole, cut = tmp_path / "whole.otq", tmp_path / "cut.otq"
    with Tracing("record", "-o", str(whole), "--pid", str(guest.pid)) as tracing:
        guest.run("for i in 1 2 3 4 5; do dd if=/dev/sda of=/dev/null bs=4k count=31 iflag=direct; usleep 200000; done")
        assert tracing.stop() == 0
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])

    done = otel_qemu("replay", str(cut), "--json")

    assert done.returncode == 1
    assert "cut off" in done.stderr
    assert 0 < done.stdout.count("\n") < len(traces_of(whole))


def test_not_a_recording(tmp_path: Path) -> None:
    """A file of another kind is refused."""
    other = tmp_path / "notes.txt"
    other.write_text("not a recording, but long enough to hold one's header" * 9)

    assert_refused(otel_qemu("replay", str(other)), 2, "notes.txt")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["hist", "--bounds", "5ms,1ms"], "--bounds"),
        (["hist", "--duration", "-1"], "--duration"),
        (["check", "--pid", "0"], "--pid"),
        (["replay", "/nowhere/at.all"], "/nowhere/at.all"),
        (["record", "-o", "/nowhere/at.all"], "/nowhere/at.all"),
        (["nothing"], "nothing"),
    ],
)
def test_wrong_usage(arguments: list[str], text: str) -> None:
    """A wrong argument is named in one line, and nothing is traced."""
    assert_refused(otel_qemu(*arguments), 2, text)


class PlainQemu:
    """A QEMU started by hand, paused, with one SCSI disk that needs no librbd; QMP on its standard streams."""

    def __init__(self, lab: Lab) -> None:
        devices = ["virtio-scsi-pci", "scsi-hd,drive=plain"]
        self._line = ["qemu-system-x86_64", "-accel", "tcg", "-m", "256", "-display", "none", "-S", "-qmp", "stdio"]
        self._line += ["-kernel", str(lab.state.kernel), "-initrd", str(lab.state.initramfs)]
        self._line += ["-blockdev", "driver=null-co,read-zeroes=on,size=67108864,node-name=plain"]
        self._line += [word for device in devices for word in ("-device", device)]

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(self._line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.execute("qmp_capabilities")
        return self

    def __exit__(self, *_: object) -> None:
        children.end(self.process, polite_s=0)

    def execute(self, command: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"execute": command}) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            answer = json.loads(line)
            if "return" in answer:
                return answer["return"]
        raise AssertionError(f"QEMU ended at {command}")

    def await_reads(self, timeout_s: float = 120) -> None:
        """Let it run until its guest has read from the disk."""
        self.execute("cont")
        deadline = time.monotonic() + timeout_s
        while not any(entry["stats"]["rd_operations"] for entry in self.execute("query-blockstats")):
            assert time.monotonic() < deadline, "the guest has read nothing"
            time.sleep(0.05)


def test_qemu_without_librbd(lab: Lab, tmp_path: Path) -> None:
    """A QEMU with no rbd disk: its SCSI requests are traced alone, and that is said."""
    recording = tmp_path / "scsi.otq"
    with PlainQemu(lab) as qemu:
        with Tracing("record", "-o", str(recording), "--pid", str(qemu.process.pid)) as tracing:
            qemu.await_reads()
            assert tracing.stop() == 0

    assert "RBD is not traced" in tracing.stderr
    assert {"INQUIRY", "READ"} <= {trace["operation"] for trace in traces_of(recording)}
