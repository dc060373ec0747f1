# SPDX-License-Identifier: Apache-2.0
"""
Programs that no guest has: small C sources, compiled here without a C library and typed in.
"""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

from tests.lab.guest import Guest


def type_in(guest: Guest, folder: Path, source: Path) -> None:
    """Compile a C program that needs no library, and put it into the guest's /tmp."""
    binary = folder / source.stem
    flags = ["-D_GNU_SOURCE", "-nostdlib", "-static", "-Os", "-s", "-ffreestanding", "-fno-stack-protector", "-Wl,-n"]
    subprocess.run(["gcc", *flags, "-o", str(binary), str(source)], check=True, timeout=300)
    text = base64.encodebytes(binary.read_bytes()).decode()
    guest.run(f"base64 -d > /tmp/{source.stem} << END\n{text}\nEND\nchmod +x /tmp/{source.stem}")
