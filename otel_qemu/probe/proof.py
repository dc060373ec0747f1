# SPDX-License-Identifier: Apache-2.0
"""
Prove layouts: at first a request is taken only if its fields match the arguments of scsi_req_new.

After enough matches the layout is proven, and the probe of scsi_req_new is removed.  A layout that is not known is
calibrated first, and then proven like any other.  While the probe is there, every guest that runs the binary pays for
it.  So a proof by one guest holds for all of them: otherwise an idle guest would keep the probe in place.
"""

import logging
from dataclasses import replace

from otel_qemu.probe import attach
from otel_qemu.probe.calibration import calibrated
from otel_qemu.probe.inspection import Inspection
from otel_qemu.probe.layouts import CALIBRATION, SCSI_REQUEST, UNKNOWN_OFFSET, Layout
from otel_qemu.probe.program import Program

log = logging.getLogger(__name__)

ENOUGH_PROOFS = 16
"""This many requests must match in device, tag, LUN and the first bytes of the CDB."""

_Build = tuple[tuple[int, int], str, Layout]
"""The subject of a proof: a binary, by inode and build id, and its layout."""


def _build(inspection: Inspection) -> _Build:
    return inspection.process.executable.identity, inspection.build_ids.get("qemu", ""), inspection.layout


class Proofs:
    """
    The processes whose layout of SCSIRequest is not proven yet, and the probes for the proof.

    Args:
        program: loaded.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._waiting: dict[int, Inspection] = {}
        self._proven: set[_Build] = set()
        self._calibrated: dict[_Build, dict[str, int]] = {}
        self._reported: set[int] = set()
        self._probes: dict[tuple[int, int], attach.Attachment] = {}

    def begin(self, inspection: Inspection, route: str) -> bool:
        """
        Begin the proof of a process; returns whether it needs one and can have one.

        Raises:
            NotPossible: the kernel refuses the probe.
        """
        file, site = inspection.process.executable, inspection.proof
        self._waiting.pop(inspection.process.pid, None)  # it may have executed another binary
        self._use_calibrated(inspection)
        if site is None or not inspection.sites.get("scsi") or _build(inspection) in self._proven:
            return False
        if file.identity not in self._probes:
            self._probes[file.identity] = attach.attach(self._program, file.path, [site], route)
        self._waiting[inspection.process.pid] = inspection
        return True

    def settle(self) -> None:
        """Look at each proof: end those that have enough matches, and warn of layouts that are refuted."""
        for pid, inspection in list(self._waiting.items()):
            if inspection.calibrates:
                self._calibrate(pid, inspection)
                continue
            proven, refuted = self._program.proofs(pid)
            if proven >= ENOUGH_PROOFS:
                self._proven.add(_build(inspection))
            elif refuted >= ENOUGH_PROOFS and not proven and pid not in self._reported:
                self._reported.add(pid)
                log.warning(
                    "process %d: SCSI is not traced: requests differ from the arguments of scsi_req_new, so this build "
                    "has another layout of SCSIRequest; report it with the output of `otel-qemu check --json`",
                    pid,
                )
        for pid in [pid for pid, inspection in self._waiting.items() if _build(inspection) in self._proven]:
            self._program.trust_process(pid)
            self.forget(pid)

    def _calibrate(self, pid: int, inspection: Inspection) -> None:
        """Look for the layout in the samples.  If a full set of samples does not show it, take new samples."""
        build = _build(inspection)
        made, submitted = self._program.samples(pid)
        offsets = self._calibrated.get(build) or calibrated(made, submitted)
        if offsets is None:
            if self._program.has_all_samples(pid):
                self._program.sample_again(pid)
                self._report_once(pid)
            return
        self._calibrated[build] = offsets
        self._use_calibrated(inspection)
        self._program.prove_process(pid, **offsets)

    def _use_calibrated(self, inspection: Inspection) -> None:
        """Use the layout that was calibrated in another process of the same build."""
        if inspection.calibrates and (offsets := self._calibrated.get(_build(inspection))):
            inspection.layout = replace(inspection.layout, **offsets)
            inspection.sources[SCSI_REQUEST] = CALIBRATION
            without = "" if inspection.layout.sense != UNKNOWN_OFFSET else "; sense data are not read"
            log.info("process %d: SCSIRequest is read by %s%s", inspection.process.pid, CALIBRATION, without)

    def _report_once(self, pid: int) -> None:
        if pid not in self._reported:
            self._reported.add(pid)
            log.warning(
                "process %d: SCSI is not traced: calibration has found no layout of SCSIRequest; report it "
                "with the output of `otel-qemu check --json`",
                pid,
            )

    def forget(self, pid: int) -> None:
        """Forget a process that is proven or has ended, and detach probes that no other process needs."""
        self._waiting.pop(pid, None)
        used = {inspection.process.executable.identity for inspection in self._waiting.values()}
        for identity in self._probes.keys() - used:
            self._probes.pop(identity).detach()

    def detach(self) -> None:
        """Detach every probe."""
        for pid in list(self._waiting):
            self.forget(pid)
