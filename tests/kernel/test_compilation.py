# SPDX-License-Identifier: Apache-2.0
"""The kernel headers for compiling the program: ours, the running kernel's, or those that the user names."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_qemu.probe.compilation import STAND_INS
from tests.kernel.fake_qemu import FakeQemu

CHECK = (sys.executable, "-c", "import sys; from otel_qemu.cli import main; sys.exit(main(sys.argv[1:]))", "check")
NOTHING_INSTALLED = "mount -t tmpfs none /lib/modules\n"
SPOILT = f"mount --bind /dev/null {STAND_INS}/include/linux/types.h\n"


@pytest.fixture(scope="module")
def qemu() -> Iterator[FakeQemu]:
    with FakeQemu() as qemu:
        yield qemu


@pytest.fixture(scope="module")
def installed() -> str:
    """Put the headers of tests/packages.txt where a distribution has those of the running kernel."""
    found = sorted(Path("/lib/modules").glob("*/build/include"))
    assert found, "no kernel headers: apt-get install linux-headers-amd64"
    folder = f"/lib/modules/{os.uname().release}"
    links = [
        f"ln -s {(found[-1].parents[1] / name).resolve()} {folder}/{name}\n" for name in ("build", "source")
    ]  # resolved before a file system is mounted above them
    return NOTHING_INSTALLED + f"mkdir {folder}\n" + "".join(links)


def check(qemu: FakeQemu, mounts: str, **further: str) -> subprocess.CompletedProcess[str]:
    """Run `check` in a mount namespace of its own."""
    inside = ["unshare", "--mount", "sh", "-e", "-c", f'{mounts}exec "$@"', "sh"]
    command = [*inside, *CHECK, "--json", "--pid", str(qemu.pid)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | further, timeout=60)


def headers(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["headers"])


def test_ours_are_tried_first(qemu: FakeQemu, installed: str) -> None:
    """`check` names our stand-ins, although others are installed."""
    assert headers(check(qemu, installed)) == "the stand-in kernel headers"


def test_the_installed_ones_are_the_fallback(qemu: FakeQemu, installed: str) -> None:
    """If bcc needs more than ours have, the program compiles with the installed ones, loads and attaches."""
    assert headers(check(qemu, installed + SPOILT)) == "the installed kernel headers"


def test_without_either_both_reasons_are_given(qemu: FakeQemu) -> None:
    """If neither works, the error has the first line of each compiler's output."""
    done = check(qemu, NOTHING_INSTALLED + SPOILT)
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)
    assert "with the stand-in kernel headers: " in done.stderr
    assert "with the installed kernel headers: " in done.stderr


def test_the_users_own_are_the_only_ones(qemu: FakeQemu, tmp_path: Path) -> None:
    """Headers that the environment names are used or refused, and ours are not tried."""
    done = check(qemu, "", BCC_KERNEL_SOURCE=str(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)
    assert f"(with the kernel headers of BCC_KERNEL_SOURCE, {tmp_path}: " in done.stderr
    assert headers(check(qemu, "", BCC_KERNEL_SOURCE=str(STAND_INS))).endswith(str(STAND_INS))
