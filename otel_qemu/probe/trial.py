# SPDX-License-Identifier: Apache-2.0
"""
Attach every probe of every process for real, and detach again: the trial that `otel-qemu check` reports.
"""

from dataclasses import dataclass, field

from otel_qemu.errors import NotPossible
from otel_qemu.probe import attach
from otel_qemu.probe.inspection import Inspection, Inspector
from otel_qemu.probe.program import Program
from otel_qemu.probe.rights import require_rights
from otel_qemu.probe.selection import Selection
from otel_qemu.trace.names import Guest


@dataclass
class Trial:
    """
    The result of a trial with one process.

    Attributes:
        guest: the guest that the process runs.
        inspection: of its binaries.
        route: of attaching.
        headers: the kernel headers that the program was compiled with, in words.
        attached: by layer, whether its probes could be attached.
        problems: of the inspection and of attaching.
    """

    guest: Guest
    inspection: Inspection
    route: str
    headers: str
    attached: dict[str, bool] = field(default_factory=lambda: {"scsi": False, "rbd": False})
    problems: list[str] = field(default_factory=list)


def try_all(selection: Selection) -> list[Trial]:
    """
    Attach to every selected process, and detach again.

    Raises:
        NotPossible: nothing can be attached on this machine.
        NothingToTrace: no process fits the selection.
    """
    require_rights()
    route = attach.usable_route()
    processes = selection.require().values()
    inspector, program = Inspector(), Program()
    try:
        trials = [
            Trial(selection.guests[process.pid], inspector.inspect(process), route, program.headers)
            for process in processes
        ]
        for trial in trials:
            _try_one(program, trial)
    finally:
        program.close()
    return trials


def _try_one(program: Program, trial: Trial) -> None:
    trial.problems += trial.inspection.problems
    for file, sites in trial.inspection.binaries():
        try:
            attach.attach(program, file.path, sites, trial.route).detach()
            trial.attached[sites[0].probe.layer] = True
        except NotPossible as error:
            trial.problems.append(str(error))
