# SPDX-License-Identifier: Apache-2.0
"""On what it was measured."""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

PACKAGES = {
    "qemu": "qemu-system-x86",
    "librbd": "librbd1",
    "bcc": "python3-bpfcc",
    "bpftrace": "bpftrace",
    "fio": "fio",
}
"""Debian's packages; a version that is not known is null."""

Value = str | int | float | bool | None


def machine() -> dict[str, Value]:
    """Kernel, CPU, versions, and how busy the machine is now."""
    cpu = Path("/proc/cpuinfo").read_text()
    return {
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpu": cpu_model(cpu),
        "cores": os.cpu_count(),
        "virtualised": is_virtualised(cpu),
        "load_1_min": round(os.getloadavg()[0], 2),
        **{name: version(package) for name, package in PACKAGES.items()},
    }


def cpu_model(cpuinfo: str) -> str:
    """What proc(5) calls the first CPU."""
    found = re.search(r"^model name\s*: (.*)$", cpuinfo, re.M)
    return found[1] if found else "?"


def is_virtualised(cpuinfo: str) -> bool:
    """Whether the CPU says that a hypervisor is below."""
    return bool(re.search(r"^flags\s*:.*\bhypervisor\b", cpuinfo, re.M))


def version(package: str) -> str | None:
    """Of an installed Debian package."""
    if not shutil.which("dpkg-query"):
        return None
    command = ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", package]
    status, _, found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.partition(" ")
    return found if status == "installed" else None
