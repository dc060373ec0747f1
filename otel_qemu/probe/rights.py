"""Whether this process may do what tracing needs, before anything is tried."""

from pathlib import Path

from otel_qemu.errors import NotPossible

# Bit numbers of capabilities(7).
_CAPABILITIES = {"CAP_BPF": 39, "CAP_PERFMON": 38, "CAP_SYS_PTRACE": 19}
_SYS_ADMIN = 21


def missing_capabilities(status: Path = Path("/proc/self/status")) -> list[str]:
    """
    What tracing needs and this process does not have.

    CAP_SYS_ADMIN stands in for CAP_BPF and CAP_PERFMON; CAP_SYS_PTRACE is needed to see other users' /proc/PID/exe.
    """
    line = next(line for line in status.read_text().splitlines() if line.startswith("CapEff:"))
    held = int(line.split()[1], 16)
    covered = {"CAP_BPF", "CAP_PERFMON"} if held >> _SYS_ADMIN & 1 else set()
    return [name for name, bit in _CAPABILITIES.items() if not held >> bit & 1 and name not in covered]


def require_rights() -> None:
    """
    Refuse to go on without the rights that tracing needs.

    Raises:
        NotPossible: capabilities are missing; the text names them.
    """
    missing = missing_capabilities()
    if missing:
        raise NotPossible(f"tracing needs {', '.join(missing)}: run as root, or give the service these capabilities")
