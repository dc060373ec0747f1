"""
Putting layouts to the proof: requests are taken only if they read as what scsi_req_new was handed, until enough did.

That function is probed for as long, and no longer: a guest pays for it with its first requests.
"""

import logging

from otel_qemu.probe import attach
from otel_qemu.probe.inspection import Inspection
from otel_qemu.probe.program import Program

log = logging.getLogger(__name__)

ENOUGH = 16
"""Requests, all of which agree in device, tag, LUN and the first bytes of the CDB."""


class Proofs:
    """
    The processes whose layout of SCSIRequest is not proven yet, and the probes that this takes.

    Args:
        program: loaded.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._waiting: dict[int, Inspection] = {}
        self._told: set[int] = set()
        self._probes: dict[tuple[int, int], attach.Attachment] = {}

    def begin(self, inspection: Inspection, route: str) -> bool:
        """
        Attach what the proof of a process takes; whether there can be one.

        Raises:
            NotPossible: the kernel refuses the probe.
        """
        file, site = inspection.process.executable, inspection.proof
        if site is None or not inspection.sites.get("scsi"):
            return False
        if file.identity not in self._probes:
            self._probes[file.identity] = attach.attach(self._program, file.path, [site], route)
        self._waiting[inspection.process.pid] = inspection
        return True

    def settle(self) -> None:
        """Trace processes without further proof that have given enough; say it of those that are refuted."""
        for pid, inspection in list(self._waiting.items()):
            proven, refuted = self._program.proofs(pid)
            if proven >= ENOUGH:
                self._program.trace_process(pid, inspection.layout)
                self.forget(pid)
            elif refuted >= ENOUGH and not proven and pid not in self._told:
                self._told.add(pid)
                log.warning(
                    "process %d: SCSI is not traced: requests do not read as they were made, so this build lays out "
                    "SCSIRequest otherwise; report it with the output of `otel-qemu check --json`",
                    pid,
                )

    def forget(self, pid: int) -> None:
        """A process is proven, or has gone: probes that no other needs are detached."""
        self._waiting.pop(pid, None)
        used = {inspection.process.executable.identity for inspection in self._waiting.values()}
        for identity in self._probes.keys() - used:
            self._probes.pop(identity).detach()

    def detach(self) -> None:
        """Detach every probe."""
        for pid in list(self._waiting):
            self.forget(pid)
