# SPDX-License-Identifier: Apache-2.0
"""
What has to be there before anything is started: rights, programs, space, a free port.
"""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

from tests.lab.errors import LabError

PROGRAMS = {
    "ceph-mon": "ceph-mon",
    "monmaptool": "ceph-base",
    "ceph-osd": "ceph-osd",
    "ceph": "ceph-common",
    "rbd": "ceph-common",
    "qemu-system-x86_64": "qemu-system-x86",
    "libvirtd": "libvirt-daemon-system",
    "virtlogd": "libvirt-daemon-system",
    "busybox": "busybox-static",
    "fio": "fio",
    "ldd": "libc-bin",
}
ROOT_MIB, CACHE_MIB = 1024, 512
# A Unix socket's path has room for 107 bytes; the longest below the root is guests/NAME/channel.
ROOT_LENGTH = 60


def check(root: Path, cache: Path) -> None:
    """Raise LabError for the first thing that is missing."""
    root_user()
    _programs()
    if len(str(root)) > ROOT_LENGTH:
        raise LabError(f"path too long for sockets, {root}: choose a --root of at most {ROOT_LENGTH} characters")
    for folder in (root.parent, cache):
        _traversable(folder)
    _space(root.parent, ROOT_MIB)
    _space(cache, CACHE_MIB)


def root_user() -> None:
    """Raise LabError for anybody else."""
    if os.geteuid() != 0:
        raise LabError("not root, the lab: run it with sudo")


def _programs() -> None:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    for program, package in PROGRAMS.items():
        if shutil.which(program, path=path) is None:
            raise LabError(f"program missing, {program}: apt-get install {package}")
    if not list(Path("/usr/lib").glob("*/qemu/block-rbd.so")):
        raise LabError("QEMU's rbd module missing, block-rbd.so: apt-get install qemu-block-extra")


def _traversable(folder: Path) -> None:
    # QEMU runs as libvirt-qemu, and opens the kernel and ceph.conf itself.
    for part in (folder, *folder.parents):
        if part.exists() and not part.stat().st_mode & 0o001:
            raise LabError(f"QEMU's user may not enter it, {part}: chmod o+x {part}, or choose another folder")


def _space(folder: Path, need_mib: int) -> None:
    # The cache need not be there yet.
    there = next(part for part in (folder, *folder.parents) if part.is_dir())
    free_mib = shutil.disk_usage(there).free >> 20
    if free_mib < need_mib:
        raise LabError(f"no space, {folder} has {free_mib} MiB free: make room for {need_mib} MiB")


def port(wanted: int | None) -> int:
    """The port wanted, if it is free; any free one when none is."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted or 0))
        except OSError:
            raise LabError(f"port is taken, 127.0.0.1:{wanted}: leave out --port, or choose another one") from None
        return int(probe.getsockname()[1])
