# SPDX-License-Identifier: Apache-2.0
"""Debian's QEMU and librbd, and what binutils say of a binary."""

import subprocess

QEMU = "/usr/bin/qemu-system-x86_64"


LIBRBD = "/usr/lib/x86_64-linux-gnu/librbd.so.1"


BLOCK_RBD = "/usr/lib/x86_64-linux-gnu/qemu/block-rbd.so"


def run(*command: object) -> str:
    return subprocess.run([*map(str, command)], check=True, capture_output=True, text=True, timeout=120).stdout


def nm(path: str, *options: str) -> dict[str, int]:
    """Function → address, by binutils."""
    lines = (line.split() for line in run("nm", *options, "--defined-only", path).splitlines())
    return {name.partition("@")[0]: int(address, 16) for address, kind, name in lines if kind in "Tt"}


def file_offset(path: str, address: int) -> int:
    """Where an address lies in the file, by the program headers that binutils shows."""
    for line in run("readelf", "-lW", path).splitlines():
        if line.split()[:1] == ["LOAD"]:
            offset, start, _, size = (int(word, 16) for word in line.split()[1:5])
            if start <= address < start + size:
                return address - start + offset
    raise LookupError(address)
