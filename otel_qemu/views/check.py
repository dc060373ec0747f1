# SPDX-License-Identifier: Apache-2.0
"""What `check` found, for people and for programs."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from otel_qemu.probe.inspection import Inspection
from otel_qemu.probe.layouts import CALIBRATION, COMPLETION, RBD_TASK, SCSI_REQUEST, UNKNOWN_OFFSET
from otel_qemu.probe.trial import Trial


def check_line(trial: Trial) -> dict[str, Any]:
    """One process as plain data: the contract of ``check --json``."""
    process, inspection = trial.inspection.process, trial.inspection
    sites = [site for layer in ("scsi", "rbd") for site in inspection.sites.get(layer, [])]
    return {
        "pid": process.pid,
        "exe": process.executable.name,
        "qemu_version": inspection.qemu_version or None,
        "librbd": process.librbd.name if process.librbd else None,
        "domain": trial.guest.name,
        "symbols": inspection.symbols,
        "layout": {
            **{name: None if value == UNKNOWN_OFFSET else value for name, value in asdict(inspection.layout).items()},
            "sources": dict(_sources(inspection)),
        },
        "route": trial.route,
        "headers": trial.headers,
        "sites": [
            {
                "function": site.probe.function,
                "layer": site.probe.layer,
                "offset": site.offset,
                "instruction": site.instruction,
                "emulated": site.emulated,
                "slow_because": site.slow_because,
            }
            for site in [*sites, *([inspection.proof] if inspection.proof else [])]
        ],
        "traceable": trial.attached,
        "problems": trial.problems,
    }


def check_text(trial: Trial) -> Iterator[str]:
    """One process as lines to read."""
    process, inspection = trial.inspection.process, trial.inspection
    yield f"{trial.guest.label}  (pid {process.pid}, QEMU {inspection.qemu_version or 'of unknown version'})"
    yield f"  QEMU     {process.executable.name}"
    yield f"  librbd   {process.librbd.name if process.librbd else 'not mapped'}"
    yield f"  route    {trial.route}, compiled with {trial.headers}"
    for layer in ("scsi", "rbd"):
        sites = inspection.sites.get(layer, [])
        yield f"  {layer:<8} {f'traceable, {len(sites)} probes' if trial.attached[layer] else 'not traceable'}"
        for site in sites:
            if site.slow_because:
                yield f"           {site.probe.function} is single-stepped, which costs more a hit: {site.slow_because}"
    for struct, source in _sources(inspection):
        yield f"  layout   {struct}: {source or 'not known'}{_confirmed(inspection, struct)}"
    walk = "by pointers" if inspection.layout.walk_known else "by byte range and time"
    yield f"  joined   {walk if all(trial.attached.values()) else 'no'}"
    for problem in trial.problems:
        yield f"  problem  {problem}"


def _sources(inspection: Inspection) -> Iterator[tuple[str, str | None]]:
    """Each struct, and where its layout is from; None where it is not known."""
    for struct in (SCSI_REQUEST, RBD_TASK, COMPLETION):
        calibrated = struct == SCSI_REQUEST and inspection.calibrates
        yield struct, CALIBRATION if calibrated else inspection.sources.get(struct)


def _confirmed(inspection: Inspection, struct: str) -> str:
    """What is to happen before the layout of SCSIRequest is believed."""
    if struct != SCSI_REQUEST or not inspection.layout.scsi_known or not inspection.sites.get("scsi"):
        return ""
    if inspection.proof is None:
        return ", which nothing can confirm: no symbol scsi_req_new"
    return ", which the first requests must confirm"
