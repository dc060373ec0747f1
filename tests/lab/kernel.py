# SPDX-License-Identifier: Apache-2.0
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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.lab.errors import LabError

METAPACKAGE = "linux-image-cloud-amd64"
IMAGE = re.compile(r"\b(linux-image-\d\S*) \(= ([^)]+)\)")
"""The only dependency of the metapackage that holds a kernel."""
PART = re.compile(r"\b(linux-(?:binary|modules)-\d\S*) \(= ([^)]+)\)")
"""What Debian's image of Linux 6.19 and newer is made of; an older one holds everything itself."""
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
        return next(self.folder.rglob("vmlinuz*"))  # in boot, and from Debian's 7.0 on beside the modules

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
        packages = newest_packages()
        unpacked = sorted(cache.glob("linux-*"), key=lambda path: path.stat().st_mtime)
        if not packages:
            if not unpacked:
                raise LabError(f"apt knows no package {METAPACKAGE}: run apt-get update, or see /etc/apt/sources.list")
            return cls(unpacked[-1])
        folder = cache / packages[0].replace("=", "_")
        if not folder.is_dir():
            unpack(packages, folder, scratch)
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


def newest_packages(environment: Mapping[str, str] | None = None) -> list[str]:
    """
    What holds the newest kernel, as apt-get takes it; nothing where apt knows of none.

    Args:
        environment: of apt, if not ours.
    """
    image = IMAGE.search(_depends(METAPACKAGE, environment))
    if image is None:
        return []
    parts = PART.findall(_depends("=".join(image.groups()), environment))
    return ["=".join(package) for package in parts or [image.groups()]]


def _depends(package: str, environment: Mapping[str, str] | None) -> str:
    command = ["apt-cache", "show", "--no-all-versions", package]
    shown = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120).stdout
    return " ".join(re.findall(r"^(?:Pre-)?Depends: (.*)$", shown, re.M))


def unpack(packages: list[str], folder: Path, scratch: Path, environment: Mapping[str, str] | None = None) -> None:
    """
    Download packages and unpack them together into a new folder.

    Args:
        packages: as apt-get takes them.
        folder: to make; one that another has made meanwhile is as good.
        scratch: an empty folder on the same file system.
        environment: of apt-get, if not ours.

    Raises:
        LabError: apt cannot download them.
    """
    # apt warns when its own user may not write here, and downloads all the same.
    download = subprocess.run(
        ["apt-get", "download", *packages],
        cwd=scratch,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=600,
    )
    files = list(scratch.glob("*.deb"))
    if download.returncode or len(files) != len(packages):
        raise LabError(f"cannot download, {' '.join(packages)}: run apt-get update\n{download.stderr.strip()}")
    tree = scratch / "kernel"
    for file in files:
        subprocess.run(["dpkg", "-x", file, tree], check=True, timeout=300)
    shutil.rmtree(tree / "usr/share", ignore_errors=True)
    for readable in (tree, tree / "boot"):
        if readable.is_dir():
            readable.chmod(0o755)
    if not folder.is_dir():
        tree.rename(folder)
