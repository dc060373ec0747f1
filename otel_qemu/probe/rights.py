# SPDX-License-Identifier: Apache-2.0
"""Checks, before anything is attached, that the kernel is new enough and that this process has the rights."""

import os
import re
from pathlib import Path

from otel_qemu.errors import NotPossible

# Bit numbers of capabilities(7).
_CAPABILITIES = {"CAP_BPF": 39, "CAP_PERFMON": 38, "CAP_SYS_PTRACE": 19}
_SYS_ADMIN = 21
_OLDEST = (5, 8)
"""The first Linux with the ring buffer, CAP_BPF and CAP_PERFMON."""


def require_rights() -> None:
    """
    Check the kernel's version and the rights that every way of tracing needs.

    Raises:
        NotPossible: the kernel is too old, or capabilities are missing; the text names them.
    """
    release = os.uname().release
    if _version(release) < _OLDEST:
        raise NotPossible(f"tracing needs Linux {'.'.join(map(str, _OLDEST))} or newer, and this is {release}")
    missing = missing_capabilities()
    if missing:
        raise NotPossible(f"tracing needs {', '.join(missing)}: run as root, or give the service these capabilities")


def require_perf_rights() -> None:
    """
    Check for CAP_SYS_ADMIN, which perf events need since the fix of CVE-2025-38466.

    Raises:
        NotPossible: it is missing; the text has the lines for the unit.
    """
    if not _held() >> _SYS_ADMIN & 1:
        raise NotPossible(
            f"Linux {os.uname().release} has no uprobe_multi link (6.6 and newer have), and perf events need "
            "CAP_SYS_ADMIN: run as root, or add by `systemctl edit otel-qemu`, below [Service], the two lines "
            "AmbientCapabilities=CAP_SYS_ADMIN and CapabilityBoundingSet=CAP_SYS_ADMIN"
        )


def missing_capabilities() -> list[str]:
    """
    Return the capabilities that tracing needs and this process lacks.

    CAP_SYS_ADMIN includes CAP_BPF and CAP_PERFMON.  CAP_SYS_PTRACE is needed to see other users' /proc/PID/exe.
    """
    held = _held()
    covered = {"CAP_BPF", "CAP_PERFMON"} if held >> _SYS_ADMIN & 1 else set()
    return [name for name, bit in _CAPABILITIES.items() if not held >> bit & 1 and name not in covered]


def _held() -> int:
    """Return the effective capabilities as a bit mask."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return int(line.split()[1], 16)


def _version(release: str) -> tuple[int, int]:
    """Return the major and minor number of a kernel release (uname(2))."""
    major, minor = re.findall(r"\d+", release)[:2]
    return int(major), int(minor)
