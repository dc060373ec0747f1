# SPDX-License-Identifier: Apache-2.0
"""
Inspect one QEMU process: its sites, its layout, and the problems that keep it from being traced.  `check` prints them.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from otel_qemu.errors import BadInput
from otel_qemu.probe import debuginfod, machine_code
from otel_qemu.probe.debug_information import DebugInformation, UnsupportedLayout
from otel_qemu.probe.elf import Binary
from otel_qemu.probe.layouts import COMPLETION, RBD_TASK, SCSI_REQUEST, Disagreement, Evidence, Layout, agreed
from otel_qemu.probe.processes import MappedFile, QemuProcess
from otel_qemu.probe.sites import PROBES, Probe, Site, proof_site, sites
from otel_qemu.probe.symbols import open_with_symbols

_SCSI_REQUIRED = [probe.function for probe in PROBES if probe.layer == "scsi" and probe.required]

MOST_CACHED = 64


@dataclass
class Inspection:
    """
    The result of inspecting a process.

    Attributes:
        process: the process.
        layout: offsets in its structs.
        sources: the source of each struct's layout, in words; a struct whose layout is not known is left out.
        qemu_version: from the text of the binary, for display only; '' if not found.
        sites: by layer: ``scsi`` in the QEMU binary, ``rbd`` in librbd.  A layer that cannot be traced is left out.
        proof: the site that proves the layout of SCSIRequest; None if the binary lacks the function.
        build_ids: of the inspected binaries, by ``qemu``, ``librbd`` and ``block_rbd``; '' if a binary has none.
        problems: each a sentence with its remedy.
    """

    process: QemuProcess
    layout: Layout = field(default_factory=Layout)
    sources: dict[str, str] = field(default_factory=dict)
    qemu_version: str = ""
    sites: dict[str, list[Site]] = field(default_factory=dict)
    proof: Site | None = None
    build_ids: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def provenance(self) -> dict[str, Any]:
        """Return the builds and the layout that this process's records are made with, as plain data for a recording."""
        return {
            "pid": self.process.pid,
            "executable": self.process.executable.name,
            "qemu_version": self.qemu_version,
            "build_ids": self.build_ids,
            "layout": asdict(self.layout),
        }

    @property
    def calibrates(self) -> bool:
        """Whether the layout of SCSIRequest is calibrated with the first requests."""
        return bool(self.sites.get("scsi")) and not self.layout.scsi_known

    @property
    def symbols(self) -> dict[str, str | None]:
        """The symbol table that has each layer's functions; None for a layer without sites."""
        return {layer: found[0].table if (found := self.sites.get(layer)) else None for layer in ("scsi", "rbd")}

    def learn(self, struct: str, evidence: Evidence | None) -> dict[str, int]:
        """Note the source of a struct's layout, and return its offsets; empty if the layout is not known."""
        if evidence is None:
            return {}
        self.sources[struct] = evidence.source
        return evidence.offsets

    def report(self, problems: Iterable[str]) -> None:
        """Add the problems that are new."""
        self.problems += [problem for problem in problems if problem not in self.problems]

    def binaries(self) -> list[tuple[MappedFile, list[Site]]]:
        """Return the files that get probes, with their sites."""
        files = {"scsi": self.process.executable, "rbd": self.process.librbd}
        return [(file, self.sites[layer]) for layer, file in files.items() if file and self.sites.get(layer)]


@dataclass(frozen=True)
class Findings:
    """The findings in one binary for one layer; they are the same for every process that runs it."""

    sites: list[Site] = field(default_factory=list)
    missing: list[Probe] = field(default_factory=list)
    layout: Evidence | None = None
    proof: Site | None = None
    version: str = ""
    unsupported: str = ""
    problems: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether everything was found.  If not, a debug file that is installed later may have the rest."""
        return self.layout is not None and not any(probe.required for probe in self.missing)


class FindingsCache:
    """
    The complete findings in binaries: a hundred guests may run one.

    Args:
        most: findings that are remembered.
    """

    def __init__(self, most: int = MOST_CACHED) -> None:
        self._most = most
        self._found: dict[tuple[str, str, tuple[int, int]], Findings] = {}
        """By layer, build id and inode."""

    def find(self, binary: Binary, file: MappedFile, look: Callable[[Binary], Findings]) -> Findings:
        """Return the findings of `look` in a binary, from an earlier look if it found everything."""
        key = look.__name__, binary.build_id, file.identity
        found = self._found.get(key) or look(binary)
        if binary.build_id and found.complete:
            if len(self._found) >= self._most:
                self._found.clear()
            self._found[key] = found
        return found


class Inspector:
    """
    Inspects processes, and remembers what it has found in their files.

    Attributes:
        debuginfod: the client that fetches debug files.
    """

    def __init__(self) -> None:
        self._cache = FindingsCache()
        self._debug_information = DebugInformation()
        self.debuginfod = debuginfod.Client()

    def inspect(self, process: QemuProcess) -> Inspection:
        """Inspect a process's binaries.  A file that cannot be read becomes a problem, not an exception."""
        found = Inspection(process)
        offsets: dict[str, int] = {}
        for look in (self._inspect_scsi, self._inspect_rbd):  # a layer is traced even if the other one cannot be
            try:
                offsets |= look(found)
            except BadInput as error:
                found.problems.append(str(error))
        found.layout = Layout(**offsets)
        return found

    def _inspect_scsi(self, found: Inspection) -> dict[str, int]:
        executable = found.process.executable
        with open_with_symbols(executable.path, _SCSI_REQUIRED, found.process.roots, self.debuginfod) as binary:
            qemu = self._cache.find(binary, executable, self._look_at_qemu)
            found.build_ids["qemu"] = binary.build_id
        found.qemu_version, found.proof = qemu.version, qemu.proof
        found.report(qemu.problems)
        if any(probe.required for probe in qemu.missing):
            names = _names(qemu.missing)
            found.problems.append(
                f"SCSI is not traced: {executable.name} has no symbol {names}; install its debug symbols"
            )
            return {}
        if qemu.unsupported:  # calibration and proof do not compare every field that is read
            found.problems.append(f"SCSI is not traced: {qemu.unsupported}")
            return {}
        if qemu.layout is None and qemu.proof is None:
            found.problems.append(
                f"SCSI is not traced: the layout of SCSIRequest is not known, and {executable.name} has no symbol "
                "scsi_req_new for calibration; install its debug symbols"
            )
            return {}
        found.sites["scsi"] = qemu.sites
        return found.learn(SCSI_REQUEST, qemu.layout)

    def _inspect_rbd(self, found: Inspection) -> dict[str, int]:
        process = found.process
        if process.unreachable:
            found.problems.append(
                f"RBD is not traced: {', '.join(process.unreachable)} cannot be opened; "
                "give the service CAP_CHECKPOINT_RESTORE and CAP_DAC_READ_SEARCH"
            )
            return {}
        if process.librbd is None:
            found.problems.append("RBD is not traced: the process has no librbd mapped, so it has no rbd disk")
            return {}
        librbd = self._open_and_look(found, "librbd", process.librbd, self._look_at_librbd)
        if any(probe.required for probe in librbd.missing):
            found.problems.append(f"RBD is not traced: {process.librbd.name} has no symbol {_names(librbd.missing)}")
        else:
            found.sites["rbd"] = librbd.sites
        task = self._open_and_look(found, "block_rbd", process.block_rbd or process.executable, self._look_at_block_rbd)
        if librbd.layout is None or task.layout is None:
            found.problems.append(
                "RBD calls are joined by range and time: the layouts for the pointer walk are not known"
            )
        return found.learn(COMPLETION, librbd.layout) | found.learn(RBD_TASK, task.layout)

    def _open_and_look(
        self, found: Inspection, name: str, file: MappedFile, look: Callable[[Binary], Findings]
    ) -> Findings:
        with open_with_symbols(file.path, (), found.process.roots, self.debuginfod) as binary:
            findings = self._cache.find(binary, file, look)
            found.build_ids[name] = binary.build_id
        found.report(findings.problems)
        return findings

    def _look_at_qemu(self, binary: Binary) -> Findings:
        probes, missing = sites(binary, "scsi")
        layout, unsupported = None, ""
        try:
            layout = self._layout(binary, SCSI_REQUEST, machine_code.scsi_request)
        except UnsupportedLayout as error:
            unsupported = str(error)
        version = binary.text_after(b"QEMU emulator version ")
        return Findings(probes, missing, layout, proof_site(binary), version, unsupported, tuple(binary.problems))

    def _look_at_librbd(self, binary: Binary) -> Findings:
        probes, missing = sites(binary, "rbd")
        layout = self._layout(binary, COMPLETION, machine_code.completion)
        return Findings(probes, missing, layout, problems=tuple(binary.problems))

    def _look_at_block_rbd(self, binary: Binary) -> Findings:
        layout = self._layout(binary, RBD_TASK, machine_code.rbd_task)
        return Findings(layout=layout, problems=tuple(binary.problems))

    def _layout(self, binary: Binary, struct: str, read_code: Callable[[Binary], list[Evidence]]) -> Evidence | None:
        """
        Return a struct's layout by debug information and machine code; None without evidence, or if they differ.

        Raises:
            UnsupportedLayout: the kernel side cannot read the struct.
        """
        code = read_code(binary)
        try:
            return agreed([*self._debug_information.evidence(binary, struct, is_needed=not code), *code])
        except Disagreement as error:
            binary.report(f"the layout of {struct} is not used, because two sources disagree: {error}")
        return None


def _names(probes: list[Probe]) -> str:
    return ", ".join(probe.function for probe in probes if probe.required)
