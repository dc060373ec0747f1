# SPDX-License-Identifier: Apache-2.0
"""
QEMU as some distributions and clouds build it: without modules, optimised at link time, its symbols in a debug file.

Built from the sources of this machine's own Debian, once, into the cache; which takes minutes.  A guest runs it in this
machine's root, with the debug file where a package would put it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from otel_qemu.probe.elf import open_binary
from tests.lab.errors import LabError
from tests.lab.kernel import cache_folder
from tests.lab.qemu_line import PROGRAM
from tests.lab.roots import IN_ROOT, STAMP, Root, debian_mirror
from tests.lab.state import remove

# By compiler: what configure and the environment get beside `OPTIONS`.  LLVM's whole-program optimisation would take
# hours here, so that the one by module is taken, as Red Hat does.
BUILDS: dict[str, tuple[Sequence[str], Mapping[str, str]]] = {
    "gcc-lto": ((), {}),
    "clang-lto": (
        ("--cc=clang", "--cxx=clang++", "--host-cc=clang", "--extra-ldflags=-fuse-ld=lld"),
        {"CC_LD": "lld", "CXX_LD": "lld"},
    ),
}
OPTIONS = (
    "--target-list=x86_64-softmmu", "--without-default-features", "--enable-system", "--enable-tcg", "--enable-kvm",
    "--enable-rbd", "--enable-fdt=system", "--disable-docs", "--disable-tools", "--disable-modules", "--enable-lto",
    "--disable-install-blobs", "--disable-werror", "--meson=meson",
    "--firmwarepath=/usr/share/qemu:/usr/share/seabios:/usr/lib/ipxe/qemu",
)  # fmt: skip
PACKAGES = (
    "bison", "clang", "dpkg-dev", "flex", "gcc", "libc6-dev", "libfdt-dev", "libglib2.0-dev", "libpixman-1-dev",
    "librbd-dev", "lld", "meson", "ninja-build", "pkg-config", "zlib1g-dev",
)  # fmt: skip
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
LONGEST_S = 3600  # of one step of a build, on a busy machine
DEBUG_FILES = Path("/usr/lib/debug")
ASKED_FOR = "OTEL_QEMU_BUILD_QEMU"


@dataclass(frozen=True)
class BuiltQemu(Root):
    """
    This machine's root, with another QEMU.
    """

    def __post_init__(self) -> None:
        if self.suite not in BUILDS:
            raise LabError(f"no such build, {self.suite}: one of {', '.join(BUILDS)}")

    @property
    def folder(self) -> Path:
        """Where it is, or would be: the program, and its debug file below ``debug``."""
        return cache_folder().with_name("qemu") / self.suite

    def is_cached(self) -> bool:
        """Whether it is built."""
        return (self.folder / STAMP).exists()

    def has(self, packages: Sequence[str]) -> bool:
        """It has whatever this machine has, and is there for its QEMU alone."""
        return False

    def command(self, program: Sequence[str], mounts: Mapping[Path, str]) -> list[str]:
        """A command line that runs `program`, our QEMU in place of another, in a mount namespace of its own."""
        DEBUG_FILES.mkdir(exist_ok=True)
        mounts = {**mounts, self.folder / "debug": str(DEBUG_FILES)}
        pairs = [word for outside, inside in mounts.items() for word in (str(outside), inside)]
        line = [str(self.folder / PROGRAM) if word == PROGRAM else word for word in program]
        return ["unshare", "--mount", "sh", str(IN_ROOT), "/", *pairs, "--", *line]

    def _install(self, say: Callable[[str], None]) -> None:
        with tempfile.TemporaryDirectory(prefix="otel-qemu-build-") as scratch:
            say(f"QEMU {self.suite}: building, once")
            _require_packages()
            program = _built(self.suite, _source(Path(scratch)))
            draft = self.folder.with_suffix(".new")
            remove(draft)
            _keep(program, draft)
            remove(self.folder)
            draft.rename(self.folder)


def root_of(suite: str) -> Root:
    """A suite of Debian, or a build of ours."""
    return BuiltQemu(suite) if suite in BUILDS else Root(suite)


def covered_builds() -> list[str]:
    """The builds that tests run on: those that are in the cache, or all when `ASKED_FOR` is set."""
    return [name for name in BUILDS if os.environ.get(ASKED_FOR) or BuiltQemu(name).is_cached()]


def _require_packages() -> None:
    line = ["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package}\n", *PACKAGES]
    listed = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120).stdout.splitlines()
    if missing := sorted(set(PACKAGES) - {line.removeprefix("installed ") for line in listed}):
        raise LabError(f"packages missing, {' '.join(missing)}: apt-get install {' '.join(missing)}")


def _source(folder: Path) -> Path:
    """QEMU's source package, by an apt that knows sources, and whose lists are its own."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    line = f"deb-src [signed-by={KEYRING}] {debian_mirror()} {release['VERSION_CODENAME']} main\n"
    (folder / "sources.list").write_text(line)
    (folder / "lists").mkdir()
    (folder / "cache").mkdir()
    apt = ["apt-get", "-o", f"Dir::Etc::SourceList={folder}/sources.list", "-o", "Dir::Etc::SourceParts=/dev/null",
           "-o", f"Dir::State::Lists={folder}/lists", "-o", f"Dir::Cache={folder}/cache"]  # fmt: skip
    _run([*apt, "update"], folder)
    _run([*apt, "source", "--download-only", "qemu"], folder)
    (description,) = folder.glob("*.dsc")
    _run(["dpkg-source", "--extract", description.name, "source"], folder)
    return folder / "source"


def _built(suite: str, source: Path) -> Path:
    options, variables = BUILDS[suite]
    folder, environment = source.with_name("build"), {**os.environ, **variables}
    folder.mkdir()
    _run(["../source/configure", *OPTIONS, *options], folder, environment)
    if suite == "clang-lto":
        _run(["meson", "configure", "-Db_lto_mode=thin"], folder, environment)
    _run(["ninja", PROGRAM], folder, environment)
    return folder / PROGRAM


def _keep(program: Path, folder: Path) -> None:
    """Take the symbols out of a program into its debug file, as packages do."""
    with open_binary(str(program)) as opened:
        build_id = opened.build_id
    debug = folder / "debug/.build-id" / build_id[:2] / f"{build_id[2:]}.debug"
    debug.parent.mkdir(parents=True)
    shutil.copy(program, folder / PROGRAM)
    _run(["objcopy", "--only-keep-debug", "--compress-debug-sections", PROGRAM, str(debug)], folder)
    _run(["strip", PROGRAM], folder)
    (folder / STAMP).write_text(" ".join(OPTIONS))


def _run(line: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(
        line, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=LONGEST_S
    )
    if done.returncode:
        last = (done.stderr or done.stdout).strip().rpartition("\n")[2]
        raise LabError(f"cannot build QEMU, {line[0]} failed: {last}")
