# SPDX-License-Identifier: Apache-2.0
"""
Attach the exact chain of ``bpf/audit.bpf.c``.  Only ``--audit`` does: it costs a guest more than all other probes.
"""

import logging

from otel_qemu.errors import BadInput, NotPossible
from otel_qemu.probe import attach, debuginfod
from otel_qemu.probe.inspection import Inspection
from otel_qemu.probe.processes import MappedFile, QemuProcess
from otel_qemu.probe.program import Program
from otel_qemu.probe.sites import AUDIT_PROBES, Site, sites
from otel_qemu.probe.symbols import open_with_symbols

log = logging.getLogger(__name__)


class ChainProbes:
    """
    The probes of the exact chain, in the processes whose joins are audited.

    A process whose joins cannot be audited is traced all the same, and a warning gives the reason.

    Args:
        program: loaded, with the audit.
        client: of debuginfod.
    """

    def __init__(self, program: Program, client: debuginfod.Client) -> None:
        self._program = program
        self._debuginfod = client
        self._files: dict[int, tuple[int, int]] = {}
        self._probes: dict[tuple[int, int], attach.Attachment] = {}

    @property
    def pids(self) -> list[int]:
        """The ids of the processes that are audited."""
        return list(self._files)

    def begin(self, inspection: Inspection, route: str) -> None:
        """Attach the chain to a process's QEMU, before all other probes.  Without SCSI or RBD there are no joins."""
        process = inspection.process
        if len(inspection.binaries()) < 2:
            return
        try:
            self._attach(process.executable, process, route)
            self._program.audit_process(process.pid)
            self._files[process.pid] = process.executable.identity
        except (BadInput, NotPossible) as error:
            log.warning("process %d: joins are not audited: %s", process.pid, error)

    def forget(self, pid: int) -> None:
        """Forget a process that has ended, and detach probes that no other process needs."""
        self._files.pop(pid, None)
        for identity in self._probes.keys() - set(self._files.values()):
            self._probes.pop(identity).detach()

    def detach(self) -> None:
        """Detach every probe."""
        while self._probes:
            self._probes.popitem()[1].detach()

    def _attach(self, file: MappedFile, process: QemuProcess, route: str) -> None:
        if file.identity not in self._probes:
            self._probes[file.identity] = attach.attach(
                self._program, file.path, chain_sites(process, self._debuginfod), route
            )


def chain_sites(process: QemuProcess, client: debuginfod.Client | None = None) -> list[Site]:
    """
    Return the sites of the chain in a process's QEMU.

    Args:
        process: runs it.
        client: of debuginfod, as `open_with_symbols` takes it.

    Raises:
        BadInput: the file cannot be read, or lacks some of the functions.
    """
    executable, wanted = process.executable, [probe.function for probe in AUDIT_PROBES]
    with open_with_symbols(executable.path, wanted, process.roots, client) as binary:
        found, missing = sites(binary, "audit")
    if missing:
        names = ", ".join(probe.function for probe in missing)
        raise BadInput(f"{executable.name} has no function {names}: install its debug symbols")
    return found
