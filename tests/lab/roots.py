# SPDX-License-Identifier: Apache-2.0
"""
Other versions of QEMU, librbd and bcc: roots of other Debian suites, each installed once into the cache.

A program started in one is of another version, and sees another file system.  ``Root.cached(suite, say)`` installs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import children
from tests.children import child
from tests.lab.errors import LabError
from tests.lab.kernel import cache_folder
from tests.lab.state import remove

QEMU = ("qemu-system-x86", "qemu-block-extra")
# What otel_qemu.probe.program imports, so that the BPF program can be compiled there by that suite's bcc.
PROBE = ("python3-bpfcc", "python3-capstone", "python3-numpy", "python3-pyelftools")
# QEMU and librbd of each: 5.2 and 14; 10.0 and 18; 11 and 20.  Debian 11 has a bcc too, but too old a Python for us.
PACKAGES = {"bullseye": QEMU, "trixie": QEMU + PROBE, "sid": QEMU + PROBE}
NEWEST = "sid"
IN_ROOT = Path(__file__).with_name("in_root.sh")
# Says what a root was made of: one of fewer packages, by an older checkout, is made anew.
STAMP = "made-of"
MIRROR_FORMAT = "$(REPO_URI)"
ROOT_MIB = 2048


@dataclass(frozen=True)
class Root:
    """
    The root of one suite.
    """

    suite: str

    def __post_init__(self) -> None:
        if self.suite not in PACKAGES:
            raise LabError(f"no such suite, {self.suite}: one of {', '.join(PACKAGES)}")

    @property
    def folder(self) -> Path:
        """Where it is, or would be."""
        return roots_folder() / self.suite

    def is_cached(self) -> bool:
        """Whether it is installed, with all the packages it should have."""
        try:
            return (self.folder / STAMP).read_text().split() == list(PACKAGES[self.suite])
        except FileNotFoundError:
            return False

    def has(self, packages: Sequence[str]) -> bool:
        """Whether these packages are to be in it."""
        return set(packages) <= set(PACKAGES[self.suite])

    @classmethod
    def cached(cls, suite: str, say: Callable[[str], None]) -> Root:
        """The root of a suite, installing it first where it is not there yet."""
        root = cls(suite)
        with _lock():
            # Another lab may have installed it meanwhile.
            if not root.is_cached():
                root._install(say)
        return root

    def command(self, program: Sequence[str], mounts: Mapping[Path, str]) -> list[str]:
        """A command line that runs `program` in here, with folders of ours (keys) mounted at its paths (values)."""
        pairs = [word for outside, inside in mounts.items() for word in (str(outside), inside)]
        return ["unshare", "--mount", "sh", str(IN_ROOT), str(self.folder), *pairs, "--", *program]

    def _install(self, say: Callable[[str], None]) -> None:
        mirror = debian_mirror()
        if shutil.which("debootstrap", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
            raise LabError("program missing, debootstrap: apt-get install debootstrap")
        if (free_mib := shutil.disk_usage(roots_folder()).free >> 20) < ROOT_MIB:
            raise LabError(f"no space, {roots_folder()} has {free_mib} MiB free: make room for {ROOT_MIB} MiB")
        draft = self.folder.with_suffix(".new")
        remove(draft)
        say(f"root {self.suite}: installing from {mirror}, once")
        try:
            _debootstrap(self.suite, draft, mirror, say)
            for packages in (draft / "var/cache/apt/archives").glob("*.deb"):
                packages.unlink()
            (draft / STAMP).write_text(" ".join(PACKAGES[self.suite]))
            remove(self.folder)
            draft.rename(self.folder)
        finally:
            remove(draft)


def covered() -> list[str]:
    """The suites that tests run on: the newest always, others when installed, or asked for by OTEL_QEMU_ALL_ROOTS."""
    wanted = os.environ.get("OTEL_QEMU_ALL_ROOTS")
    return [suite for suite in PACKAGES if suite == NEWEST or wanted or Root(suite).is_cached()]


def roots_folder() -> Path:
    """The roots' part of the cache, OTEL_QEMU_CACHE/roots."""
    return cache_folder().with_name("roots")


def debian_mirror() -> str:
    """Where this machine has its own Debian from, as apt knows it; other suites lie beside it."""
    # apt understands every way to write down a source; the label tells Debian itself from its security updates and
    # from other archives with suites of the same names.
    wanted = ["Created-By: Packages", "Origin: Debian", "Label: Debian", "Component: main"]
    line = ["apt-get", "indextargets", "--format", MIRROR_FORMAT, *wanted]
    listed = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)
    if not listed.stdout.split():
        raise LabError("apt knows no Debian archive: run apt-get update, or see /etc/apt/sources.list")
    return listed.stdout.split()[0]


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    # The lock is on a folder that is always there, so that no lock file is left.
    roots_folder().mkdir(parents=True, exist_ok=True)
    lock = os.open(roots_folder(), os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _debootstrap(suite: str, folder: Path, mirror: str, say: Callable[[str], None]) -> None:
    # In a mount namespace of its own: what it mounts for the packages' scripts vanishes though it be killed.
    include = ",".join(PACKAGES[suite])
    line = ["unshare", "--mount", "debootstrap", "--variant=minbase", f"--include={include}", suite, str(folder)]
    errors = []
    with child([*line, mirror], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as running:
        assert running.stdout is not None
        for said in map(str.strip, running.stdout):
            if said.startswith(("E:", "W: Failure")):
                errors.append(said)
            elif said.endswith("packages..."):
                say(f"root {suite}: {said.removeprefix('I: ')}")
        running.wait(children.KILL_TIMEOUT_S)
    if running.returncode:
        reason = errors[-1] if errors else f"debootstrap's status is {running.returncode}"
        raise LabError(f"cannot install the root, {suite} from {mirror}: has that mirror the suite? ({reason})")
