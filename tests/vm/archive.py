# SPDX-License-Identifier: Apache-2.0
"""
The root file system of the virtual machines: an initramfs with Python, bcc, this checkout and a fake QEMU.

Everything is this machine's own: the interpreter with its library, some packages of the environment that runs the
tests, and the shared libraries that `ldd` names for them.  It needs no module of a kernel, so it fits every kernel.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from tests.kernel.fake.build import QEMU_7_2, built
from tests.lab.errors import LabError
from tests.lab.initramfs import DEVICE, DIRECTORY, REGULAR, SYMLINK, write_entry

CHECKOUT = Path(__file__).parents[2]
INIT = Path(__file__).with_name("init.sh")
PACKAGES = ("bcc", "capstone", "click", "elftools", "numpy")
"""What the load imports beside Python's own library."""
LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "ensurepip", "tkinter"}
"""Folders of Python's library and of packages that are big and not imported."""
LIBRARY = Path(sysconfig.get_path("stdlib"))
SYSTEM_LIBRARIES = "usr/lib/x86_64-linux-gnu"
OPENED = [Path("/", SYSTEM_LIBRARIES, name) for name in ("libbcc.so.0", "librt.so.1")]
"""What bcc opens by name, where `ldd` does not see it."""
LOADER = "lib64/ld-linux-x86-64.so.2"


def write_archive(path: Path) -> None:
    """Write the archive ("newc", uncompressed) with the present state of its files."""
    files = dict(_files())
    with path.open("wb") as out:
        parents = {str(parent) for name in files for parent in Path(name).parents}
        for folder in sorted({*parents, "dev", "proc", "sys", "tmp"}):
            write_entry(out, folder, DIRECTORY)
        write_entry(out, "dev/console", DEVICE, device=(5, 1))  # opened by the kernel before /dev is mounted
        write_entry(out, "lib", SYMLINK, b"usr/lib")
        for name, file in files.items():
            # The time, for compiled Python is valid only beside a source of the time that it names.
            write_entry(out, name, REGULAR, file.read_bytes(), modified_s=int(file.stat().st_mtime))
        write_entry(out, "TRAILER!!!", 0)


def _files() -> Iterator[tuple[str, Path]]:
    """Return each file's name in the archive and its path here."""
    yield "init", INIT
    yield "bin/busybox", Path(shutil.which("busybox") or "busybox")
    yield "usr/bin/python3", Path(sys.executable).resolve()
    programs = [Path(sys.executable).resolve(), *OPENED]
    for name, folder in _folders():
        for file in _below(folder):
            yield f"{name}/{file.relative_to(folder)}", file
            if ".so" in file.suffixes or os.access(file, os.X_OK):
                programs.append(file)
    for module in (CHECKOUT / "tests").glob("*.py"):  # what the layers share
        yield f"checkout/tests/{module.name}", module
    for library in OPENED:
        yield f"{SYSTEM_LIBRARIES}/{library.name}", library.resolve()
    yield from _libraries(programs)


def _folders() -> Iterator[tuple[str, Path]]:
    """Yield the folders of these files."""
    yield str(LIBRARY).lstrip("/"), LIBRARY
    yield "checkout/otel_qemu", CHECKOUT / "otel_qemu"
    for layer in ("kernel", "vm"):
        yield f"checkout/tests/{layer}", CHECKOUT / "tests" / layer
    yield "fake", built(QEMU_7_2)
    for package in PACKAGES:
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise LabError(f"no Python module {package}: run tests/run.sh, which installs it")
        folder = Path(spec.origin).parent
        yield f"packages/{package}", folder
        if (bundled := folder.with_name(f"{package}.libs")).is_dir():  # shared libraries of a wheel
            yield f"packages/{package}.libs", bundled


def _below(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path.name not in LEFT_OUT:
                yield from _below(path)
        elif path.exists():  # else it is a link to nowhere
            yield path


def _libraries(programs: list[Path]) -> Iterator[tuple[str, Path]]:
    """Return the shared libraries that these need, by the names that the loader looks for."""
    said = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=False, timeout=120).stdout
    for name, path in sorted(set(re.findall(r"^\s+(\S+) => (/(?:usr/)?lib/\S+)", said, re.M))):
        yield f"{SYSTEM_LIBRARIES}/{name}", Path(path).resolve()
    yield LOADER, Path("/", LOADER).resolve()
