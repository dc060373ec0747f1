"""
What can be traced of one QEMU process: its sites, its layout, and what stands in the way.  `check` prints it.
"""

from dataclasses import dataclass, field
from pathlib import Path

from otel_qemu.errors import BadInput
from otel_qemu.probe import layouts
from otel_qemu.probe.elf import open_binary
from otel_qemu.probe.layouts import Layout
from otel_qemu.probe.processes import PROC, MappedFile, QemuProcess
from otel_qemu.probe.sites import PROBES, Probe, Site, sites
from otel_qemu.probe.symbols import open_with_symbols

_SCSI_REQUIRED = [probe.function for probe in PROBES if probe.layer == "scsi" and probe.required]


@dataclass
class Inspection:
    """
    The findings.

    Attributes:
        process: what was looked at.
        layout: offsets in its structs.
        qemu_version: as the binary's own text has it, for people only; '' when not found.
        sites: where probes go, by layer: ``scsi`` in the QEMU binary, ``rbd`` in librbd; a layer that cannot be traced
            has none.
        problems: each a sentence with its remedy.
    """

    process: QemuProcess
    layout: Layout = field(default_factory=Layout)
    qemu_version: str = ""
    sites: dict[str, list[Site]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def symbols(self) -> dict[str, str | None]:
        """Which symbol table each layer's functions were found in."""
        return {layer: found[0].table if (found := self.sites.get(layer)) else None for layer in ("scsi", "rbd")}

    def binaries(self) -> list[tuple[MappedFile, list[Site]]]:
        """Which files get which probes."""
        files = {"scsi": self.process.executable, "rbd": self.process.librbd}
        return [(file, self.sites[layer]) for layer, file in files.items() if file and self.sites.get(layer)]


def inspect(process: QemuProcess) -> Inspection:
    """Look into a process's binaries; whatever cannot be read becomes a problem, never an exception."""
    found = Inspection(process)
    offsets: dict[str, int] = {}
    try:
        offsets |= _inspect_scsi(found)
        offsets |= _inspect_rbd(found)
    except BadInput as error:
        found.problems.append(str(error))
    found.layout = Layout(**offsets)
    return found


def _inspect_scsi(found: Inspection) -> dict[str, int]:
    name = found.process.executable.name
    roots = PROC / str(found.process.pid) / "root", Path("/")
    with open_with_symbols(found.process.executable.path, _SCSI_REQUIRED, roots) as binary:
        found.qemu_version = binary.text_after(b"QEMU emulator version ")
        probes, missing = sites(binary, "scsi")
        offsets = layouts.scsi_request_offsets(binary)
    found.problems += binary.problems
    if any(probe.required for probe in missing):
        found.problems.append(f"SCSI is not traced: {name} has no symbol {_names(missing)}; install its debug symbols")
        return {}
    if offsets is None:
        found.problems.append("SCSI is not traced: the layout of SCSIRequest is not understood in this build")
        return {}
    found.sites["scsi"] = probes
    return offsets


def _inspect_rbd(found: Inspection) -> dict[str, int]:
    process = found.process
    if process.unreachable:
        found.problems.append(
            f"RBD is not traced: {', '.join(process.unreachable)} cannot be opened; "
            "it takes CAP_CHECKPOINT_RESTORE and CAP_DAC_READ_SEARCH"
        )
        return {}
    if process.librbd is None:
        found.problems.append("RBD is not traced: the process has no librbd mapped, so it has no rbd disk")
        return {}
    with open_binary(process.librbd.path) as binary:
        found.sites["rbd"], missing = sites(binary, "rbd")
        argument = layouts.completion_argument_offset(binary)
    if any(probe.required for probe in missing):
        found.problems.append(f"RBD is not traced: {process.librbd.name} has no symbol {_names(missing)}")
        found.sites["rbd"] = []
    with open_binary((process.block_rbd or process.executable).path) as binary:
        task = layouts.rbd_task_offsets(binary)
    if argument is None or task is None:
        found.problems.append("RBD calls are joined by range and time: the layouts for the walk are not understood")
    return ({} if argument is None else {"completion_argument": argument}) | (task or {})


def _names(probes: list[Probe]) -> str:
    return ", ".join(probe.function for probe in probes if probe.required)
