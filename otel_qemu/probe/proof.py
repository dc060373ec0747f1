# SPDX-License-Identifier: Apache-2.0
"""
Prove layouts: at first a request is taken only if its fields match the arguments of scsi_req_new.

After enough matches the layout is proven, and the probe of scsi_req_new is removed.  A layout that is not known is
calibrated first, and then proven like any other.  While the probe is there, every guest that runs the binary pays for
it.  So a proof by one guest holds for all of them: otherwise an idle guest would keep the probe in place.
"""

import logging
import time
from dataclasses import replace

from otel_qemu.probe import attach
from otel_qemu.probe.calibration import SAMPLES, calibrated
from otel_qemu.probe.inspection import Inspection
from otel_qemu.probe.layouts import CALIBRATION, SCSI_REQUEST, UNKNOWN_OFFSET, Layout
from otel_qemu.probe.program import Program

log = logging.getLogger(__name__)

ENOUGH_PROOFS = 16
"""This many requests must match in device, tag, LUN and the first bytes of the CDB."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 600.0
"""Time until new samples are taken, if a full set has shown no layout; it doubles each time."""

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
        self._pause_s: dict[int, float] = {}
        self._sample_at_s: dict[int, float] = {}
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
        """Look for the layout in the samples, unless another process of the same build has shown it."""
        build = _build(inspection)
        offsets = self._calibrated.get(build) or self._from_samples(pid)
        if offsets is None:
            return
        self._calibrated[build] = offsets
        self._use_calibrated(inspection)
        self._program.prove_process(pid, **offsets)

    def _from_samples(self, pid: int) -> dict[str, int] | None:
        """Return the offsets that the samples show.  If a full set does not show them, new ones are taken later."""
        if pid in self._sample_at_s:
            if time.monotonic() >= self._sample_at_s[pid]:
                del self._sample_at_s[pid]
                self._program.sample_again(pid)
            return None
        made, submitted = self._program.samples(pid)
        offsets = calibrated(made, submitted)
        if offsets is None and self._program.has_all_samples(pid):
            if len(submitted) < SAMPLES:  # there was no room for the others
                self._program.sample_again(pid)
            else:
                self._pause(pid)
        return offsets

    def _pause(self, pid: int) -> None:
        """Take no samples for a while, each time for longer: the others need the room, and looking costs 30 ms."""
        self._program.forget_samples(pid)
        pause_s = self._pause_s.get(pid, FIRST_PAUSE_S)
        self._pause_s[pid] = min(2 * pause_s, LONGEST_PAUSE_S)
        self._sample_at_s[pid] = time.monotonic() + pause_s
        self._report_once(pid)

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
        for table in (self._waiting, self._pause_s, self._sample_at_s):
            table.pop(pid, None)
        self._reported.discard(pid)
        used = {inspection.process.executable.identity for inspection in self._waiting.values()}
        for identity in self._probes.keys() - used:
            self._probes.pop(identity).detach()

    def detach(self) -> None:
        """Detach every probe."""
        for pid in list(self._waiting):
            self.forget(pid)
