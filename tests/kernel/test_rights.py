# SPDX-License-Identifier: Apache-2.0
"""With few rights or missing parts, a command works, or says in one line what is missing."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_qemu.probe.attach import MULTI, PERF
from tests.children import child
from tests.kernel.fake.build import EXECUTABLE, QEMU_7_2, built
from tests.kernel.fake_qemu import FakeQemu
from tests.kernel.unit_file import capabilities
from tests.kernel.unprivileged import PYTHON, ROOT, as_nobody, environment

NEEDED = ("bpf", "perfmon", "sys_ptrace")
TRACE = (sys.executable, "-m", "tests.kernel.trace_as_user")
NOT_BCC = "raise ImportError('no module of that name')"
PYPI_BCC = "__version__ = '0.1'\n"


@pytest.fixture(scope="module")
def qemu() -> Iterator[FakeQemu]:
    with FakeQemu() as qemu:
        yield qemu


TRACE_THERE = (PYTHON, *TRACE[1:])


def traced(command: list[str], qemu: FakeQemu, **further: str) -> tuple[str, dict[str, int]]:
    """Trace 211 reads by a command; return the route and the counters."""
    with child(
        [*command, str(qemu.pid)], cwd=ROOT, env=environment(**further), stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout
        route = process.stdout.readline().strip()
        qemu.command("read 211 4096 8")
        output, errors = process.communicate("\n", timeout=60)
    assert (process.returncode, errors) == (0, "")
    return route, json.loads(output)


def refused(command: list[str], qemu: FakeQemu, **further: str) -> tuple[int, str]:
    """Try to trace by a command; return its exit status and its output."""
    done = subprocess.run(
        [*command, str(qemu.pid)], cwd=ROOT, env=environment(**further), text=True, stdin=subprocess.DEVNULL,
        capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    "further", [(), ("checkpoint_restore",), ("dac_read_search",)], ids=lambda names: "+".join(names)
)
def test_an_ordinary_user_with_three_capabilities_can_trace(further: tuple[str, ...], qemu: FakeQemu) -> None:
    """CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE are all that the uprobe_multi route needs, for root's processes too."""
    route, counted = traced([*as_nobody(*NEEDED, *further), *TRACE_THERE], qemu)
    assert route == MULTI
    names = ("scsi_submitted", "scsi_completed", "rbd_submitted", "rbd_completed", "parent_found", "read")
    assert {name: counted[name] for name in names} == dict.fromkeys(names, 211)


@pytest.mark.parametrize("missing", NEEDED)
def test_without_one_of_them_the_error_names_it(missing: str, qemu: FakeQemu) -> None:
    """One line names the missing capability and the remedy; the exit status is 4."""
    kept = [name for name in NEEDED if name != missing]
    code, text = refused([*as_nobody(*kept), *TRACE_THERE], qemu)
    assert (code, text.count("\n")) == (4, 1)
    assert text.startswith(f"error: tracing needs CAP_{missing.upper()}: run as root")


MAIN = "import sys; from otel_qemu.cli import main; sys.exit(main(sys.argv[1:]))"


def refusing(error: str, call: int) -> list[str]:
    """Return a command that runs another one while the kernel refuses one bpf(2) command: 1 loads, 2 links."""
    return ["strace", "-f", "-qq", "--signal=none", "-o", "/dev/null", f"--inject=bpf:error={error}:when={call}"]


WITHOUT_LINK = refusing("EINVAL", 2)
"""As below Linux 6.6."""


def test_without_the_link_perf_events_need_one_more(qemu: FakeQemu) -> None:
    """Where the kernel has no uprobe_multi link, the unit's capabilities do not suffice: one line, exit code 4, and
    with what that line says they do."""
    unit = capabilities("AmbientCapabilities")
    code, text = refused([*WITHOUT_LINK, *as_nobody(*unit), *TRACE_THERE], qemu)
    assert (code, text.count("\n")) == (4, 1)
    assert text.startswith("error: Linux ")
    added = {
        name: re.findall(rf"\b{name}=CAP_(\w+)", text) for name in ("AmbientCapabilities", "CapabilityBoundingSet")
    }
    assert added == {"AmbientCapabilities": ["SYS_ADMIN"], "CapabilityBoundingSet": ["SYS_ADMIN"]}

    route, counted = traced([*WITHOUT_LINK, *as_nobody(*unit, "sys_admin"), *TRACE_THERE], qemu)
    assert route == PERF
    names = ("scsi_submitted", "scsi_completed", "rbd_submitted", "rbd_completed", "parent_found", "read")
    assert {name: counted[name] for name in names} == dict.fromkeys(names, 211)


@pytest.mark.parametrize("command", [["check", "--pid"], ["run", "--wait", "--pid"]], ids=["check", "run"])
def test_the_unit_fails_rather_than_to_trace_nothing(command: list[str], qemu: FakeQemu) -> None:
    """Both commands refuse with one line, so that systemd shows the unit as failed."""
    unit = as_nobody(*capabilities("AmbientCapabilities"))
    disabled = {"OTEL_SDK_DISABLED": "true"}
    code, text = refused([*WITHOUT_LINK, *unit, PYTHON, "-c", MAIN, *command], qemu, **disabled)
    assert (code, text.count("\n")) == (4, 1)
    assert text.startswith("error: Linux ")


@pytest.mark.parametrize(
    ("error", "remedy"), [("EPERM", "lockdown or a container's filter"), ("ENOSYS", "needs CONFIG_BPF_SYSCALL")]
)
def test_a_kernel_that_loads_nothing_is_told_apart(error: str, remedy: str, qemu: FakeQemu) -> None:
    """The reason is found by the error number that the kernel returns."""
    code, text = refused([*refusing(error, 1), *TRACE], qemu)
    assert (code, text.count("\n")) == (4, 1)
    assert text.startswith("error: the kernel loads no BPF program (")
    assert remedy in text


def test_too_old_a_kernel(qemu: FakeQemu) -> None:
    """It is refused before anything is compiled, with the needed version and the running one."""
    release = subprocess.check_output(["setarch", "--uname-2.6", "uname", "-r"], text=True, timeout=60)
    assert release.startswith("2.6.")
    code, text = refused(["setarch", "--uname-2.6", *TRACE], qemu)
    assert (code, text) == (4, f"error: tracing needs Linux 5.8 or newer, and this is {release}")


def test_a_guest_that_is_not_traced_is_said(qemu: FakeQemu, tmp_path: Path) -> None:
    """A program that has QEMU's name but not its functions is named as not traced."""
    other = shutil.copy("/bin/sleep", tmp_path / EXECUTABLE)
    with child([str(other), "600"]) as sleeping:
        command = [sys.executable, "-c", MAIN, "hist", "--duration", "0.1", "--pid", str(sleeping.pid), "--pid"]
        code, text = refused(command, qemu)
    assert code == 0
    assert f"\ntracing pid {qemu.pid} (uprobe_multi); not traced: pid {sleeping.pid}; Ctrl-C ends it\n" in text


@pytest.fixture
def upgraded(tmp_path: Path) -> Iterator[FakeQemu]:
    """Start a QEMU and delete its binaries, as an upgrade does."""
    folder = Path(shutil.copytree(built(QEMU_7_2), tmp_path / "qemu"))
    with FakeQemu(folder=folder) as qemu:
        shutil.rmtree(folder)
        yield qemu


def test_deleted_binaries_need_two_more(upgraded: FakeQemu) -> None:
    """A mapped file without a name is reached by /proc/PID/map_files: for its owner or CAP_DAC_READ_SEARCH to enter,
    and for CAP_CHECKPOINT_RESTORE to open."""
    route, counted = traced([*as_nobody(*NEEDED, "checkpoint_restore", "dac_read_search"), *TRACE_THERE], upgraded)
    assert (route, counted["scsi_completed"], counted["parent_found"], counted["read"]) == (MULTI, 211, 211, 211)


def test_without_these_two_the_error_names_them(upgraded: FakeQemu) -> None:
    """SCSI alone is traced then, and the problem of RBD names the missing rights, not a missing disk."""
    command = (
        "import sys; from otel_qemu.probe.inspection import Inspector; "
        "from otel_qemu.probe.processes import read_process; "
        "print(Inspector().inspect(read_process(int(sys.argv[1]))).problems)"
    )
    code, text = refused([*as_nobody(*NEEDED), PYTHON, "-c", command], upgraded)
    assert code == 0
    assert "CAP_CHECKPOINT_RESTORE" in text


def test_the_command_line_says_the_same(qemu: FakeQemu) -> None:
    """The console command without rights: one line that names all three, exit code 4."""
    code, text = refused([*as_nobody(), PYTHON, "-c", MAIN, "check", "--pid"], qemu)
    assert (code, text.count("\n")) == (4, 1)
    assert text.startswith("error: tracing needs CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE: ")


@pytest.mark.parametrize(
    ("module", "remedy"),
    [(NOT_BCC, "no Python module bcc: install the distribution's python3-bpfcc"),
     (PYPI_BCC, "is PyPI's unrelated package of that name: run `pip uninstall bcc`, and install the distribution's")],
)  # fmt: skip
def test_the_wrong_bcc_or_none(module: str, remedy: str, qemu: FakeQemu, tmp_path: Path) -> None:
    """Without the distribution's bcc, or with the package of that name from PyPI before it: the error says which."""
    (tmp_path / "bcc.py").write_text(module)
    code, text = refused([*TRACE], qemu, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert (code, text.count("\n")) == (4, 1)
    assert text.startswith("error: ")
    assert remedy in text
    assert "python3-bpfcc" in text


def test_no_kernel_headers_are_needed(qemu: FakeQemu) -> None:
    """The program compiles where /lib/modules has nothing, as on a container's file system."""
    script = '[ ! -d /lib/modules ] || mount -t tmpfs none /lib/modules && exec "$@"'
    hide = ["unshare", "-m", "sh", "-c", script, "sh"]
    route, counted = traced([*hide, *TRACE], qemu)
    assert (route in (MULTI, PERF), counted["scsi_completed"], counted["read"]) == (True, 211, 211)
