# SPDX-License-Identifier: Apache-2.0
"""
The guests' root file system: busybox, fio with its libraries, the kernel's modules and guest_init.sh.

It is an uncompressed cpio archive ("newc"): unpacking would cost an emulated guest more than reading.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tests.lab.errors import LabError
from tests.lab.kernel import Kernel

MODULES = ["virtio_pci", "virtio_console", "virtio_scsi", "sd_mod"]
DAY_S = 86400
INIT = Path(__file__).with_name("guest_init.sh")
DIRECTORY, REGULAR, SYMLINK, DEVICE = 0o040755, 0o100755, 0o120777, 0o020600


def cached(cache: Path, kernel: Kernel, scratch: Path) -> Path:
    """The archive for this kernel and this host's programs, built first where it is not there yet."""
    files = dict(_programs())
    archive = cache / f"initramfs-{_key(kernel, files)}.cpio"
    if not archive.exists():
        _prune(cache)
        draft = scratch / archive.name
        with draft.open("wb") as out:
            _write(out, kernel, files)
        draft.chmod(0o644)
        draft.rename(archive)
    return archive


def _prune(cache: Path) -> None:
    # Another lab may still be about to start a guest from a young one.
    for old in cache.glob("initramfs-*.cpio"):
        if time.time() - old.stat().st_mtime > DAY_S:
            old.unlink()


def _key(kernel: Kernel, files: dict[str, Path]) -> str:
    digest = hashlib.sha256(kernel.folder.name.encode() + INIT.read_bytes() + Path(__file__).read_bytes())
    for name, path in files.items():
        status = path.stat()
        digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _programs() -> Iterator[tuple[str, Path]]:
    # Name in the guest, file on the host. The loader keeps its path, the libraries all go to /lib.
    for name in ("busybox", "fio"):
        found = shutil.which(name)
        if found is None:
            raise LabError(f"program missing, {name}: apt-get install {name.replace('box', 'box-static')}")
        yield f"bin/{name}", Path(found).resolve()
    ldd = subprocess.run(["ldd", shutil.which("fio") or "fio"], capture_output=True, text=True, check=True, timeout=60)
    for library in re.findall(r"=> (/\S+)", ldd.stdout):
        yield f"lib/{Path(library).name}", Path(library).resolve()
    for loader in re.findall(r"^\s*(/lib64/\S+)", ldd.stdout, re.M):
        yield loader.lstrip("/"), Path(loader).resolve()


def _write(out: BinaryIO, kernel: Kernel, files: dict[str, Path]) -> None:
    for folder in ("bin", "lib", "lib64", "modules", "dev"):
        write_entry(out, folder, DIRECTORY)
    # The kernel opens the console before the init can mount /dev.
    write_entry(out, "dev/console", DEVICE, device=(5, 1))
    write_entry(out, "init", REGULAR, INIT.read_bytes())
    modules = kernel.modules(MODULES)
    write_entry(out, "modules.order", REGULAR, "\n".join(modules).encode())
    for name, content in modules.items():
        write_entry(out, f"modules/{name}", REGULAR, content)
    for name, path in files.items():
        write_entry(out, name, REGULAR, path.read_bytes())
    write_entry(out, "TRAILER!!!", 0)


def write_entry(
    out: BinaryIO, name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0), modified_s: int = 0
) -> None:
    """Write one file of a cpio archive; `modified_s`: Unix time, `device`: major and minor number of a `DEVICE`."""
    # Linux kernel documentation, driver-api/early-userspace/buffer-format: thirteen 8-digit hex fields.
    encoded = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, modified_s, len(content), 0, 0, *device, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % value for value in fields)
    out.write(_padded(header + encoded) + _padded(content))


def _padded(block: bytes) -> bytes:
    return block + b"\0" * (-len(block) % 4)
