"""
The guests' kernel: Debian's cloud kernel, downloaded and unpacked into the cache, never installed.

``Kernel.cached(cache)`` gives the newest kernel apt knows of, or the one unpacked last.
"""

from __future__ import annotations

import lzma
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.lab.errors import LabError

METAPACKAGE = "linux-image-cloud-amd64"
DEFAULT_CACHE = Path("/var/cache/otel-qemu")


def cache_folder() -> Path:
    """The lab's part of the cache, OTEL_QEMU_CACHE/lab."""
    return Path(os.environ.get("OTEL_QEMU_CACHE", DEFAULT_CACHE)).absolute() / "lab"


@dataclass(frozen=True)
class Kernel:
    """
    An unpacked kernel package.
    """

    folder: Path

    @property
    def image(self) -> Path:
        """The compressed kernel that QEMU boots."""
        return next((self.folder / "boot").glob("vmlinuz-*"))

    def modules(self, names: list[str]) -> dict[str, bytes]:
        """The named modules and what they depend on, in the order to load them, by file name."""
        files = {path.name.split(".")[0].replace("-", "_"): path for path in self.folder.rglob("*.ko*")}
        ordered: dict[str, bytes] = {}
        for name in names:
            _add_module(name, files, ordered)
        return ordered

    @classmethod
    def cached(cls, cache: Path, scratch: Path) -> Kernel:
        """The unpacked kernel, downloading it first where it is not there yet."""
        package = _newest_package()
        unpacked = sorted(cache.glob("linux-image-*"), key=lambda path: path.stat().st_mtime)
        if package is None:
            if not unpacked:
                raise LabError(f"apt knows no package {METAPACKAGE}: run apt-get update, or see /etc/apt/sources.list")
            return cls(unpacked[-1])
        folder = cache / package.replace("=", "_")
        if not folder.is_dir():
            _unpack(package, folder, scratch)
        return cls(folder)


def _add_module(name: str, files: dict[str, Path], ordered: dict[str, bytes]) -> None:
    # What is built into the kernel has no file.
    if name not in files or f"{name}.ko" in ordered:
        return
    content = files[name].read_bytes()
    if files[name].suffix == ".xz":
        content = lzma.decompress(content)
    depends = re.search(rb"\0depends=([^\0]*)", content)
    for other in depends.group(1).decode().split(",") if depends else []:
        _add_module(other.replace("-", "_"), files, ordered)
    ordered[f"{name}.ko"] = content


def _newest_package() -> str | None:
    # The metapackage's only dependency is the versioned package that holds the kernel.
    show = subprocess.run(
        ["apt-cache", "show", "--no-all-versions", METAPACKAGE], capture_output=True, text=True, check=False
    )
    depends = re.search(r"^Depends: (linux-image-\S+) \(= (\S+)\)", show.stdout, re.M)
    return f"{depends.group(1)}={depends.group(2)}" if depends else None


def _unpack(package: str, folder: Path, scratch: Path) -> None:
    # apt warns when its own user may not write here, and downloads all the same.
    download = subprocess.run(["apt-get", "download", package], cwd=scratch, capture_output=True, text=True)
    package_file = next(scratch.glob("*.deb"), None)
    if download.returncode or package_file is None:
        raise LabError(f"cannot download, {package}: run apt-get update\n{download.stderr.strip()}")
    tree = scratch / "kernel"
    subprocess.run(["dpkg", "-x", package_file, tree], check=True)
    shutil.rmtree(tree / "usr", ignore_errors=True)
    tree.chmod(0o755)
    (tree / "boot").chmod(0o755)
    # Another lab may have been faster; its tree is as good.
    if not folder.is_dir():
        tree.rename(folder)
