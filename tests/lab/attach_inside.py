# SPDX-License-Identifier: Apache-2.0
"""
Run in a root by test_versions.py: compile the BPF program with the bcc there, load all of it, attach it in both ways.

It attaches to that root's own QEMU and librbd, whoever runs them.  Only what `otel_qemu.probe` needs is there.
"""

import json
import platform
from contextlib import closing
from pathlib import Path

import bcc

from otel_qemu.probe.attach import MULTI, PERF, attach
from otel_qemu.probe.elf import open_binary
from otel_qemu.probe.program import Program
from otel_qemu.probe.sites import sites


def main() -> None:
    """Print what was done as JSON; any refusal is an exception."""
    qemu, librbd = Path("/usr/bin/qemu-system-x86_64"), next(Path("/usr/lib").glob("*/librbd.so.1"))
    binaries = {"audit": qemu, "scsi": qemu, "rbd": librbd}
    attached = dict.fromkeys((MULTI, PERF), 0)
    with closing(Program(audit=True)) as program:
        for layer, path in binaries.items():
            with open_binary(str(path)) as binary:
                found, _missing = sites(binary, layer)
            for route in attached:
                attach(program, str(path), found, route).detach()
                attached[route] += len(found)
    print(json.dumps({"bcc": bcc.__version__, "python": platform.python_version(), "attached": attached}))


if __name__ == "__main__":
    main()
