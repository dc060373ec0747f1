"""
Try for real: load the program, attach every probe of every process, detach.  What `otel-qemu check` is made of.
"""

from dataclasses import dataclass, field

from otel_qemu.errors import NotPossible
from otel_qemu.probe import attach
from otel_qemu.probe.inspection import Inspection, inspect
from otel_qemu.probe.program import Program
from otel_qemu.probe.rights import require_rights
from otel_qemu.probe.selection import Selection
from otel_qemu.trace.names import Guest


@dataclass
class Trial:
    """
    How it went for one process.

    Attributes:
        guest: who it is.
        inspection: what its binaries show.
        route: how probes are attached.
        headers: kernel headers that the program was compiled with.
        attached: which layers could be.
        problems: of the inspection, and of attaching.
    """

    guest: Guest
    inspection: Inspection
    route: str
    headers: str
    attached: dict[str, bool] = field(default_factory=lambda: {"scsi": False, "rbd": False})
    problems: list[str] = field(default_factory=list)


def try_all(selection: Selection) -> list[Trial]:
    """
    Attach to everything that was selected, and detach again.

    Raises:
        NotPossible: nothing at all can be attached here.
        NothingToTrace: no process fits the selection.
    """
    require_rights()
    route = attach.usable_route()
    processes = selection.require().values()
    program = Program()
    try:
        trials = [
            Trial(selection.guests[process.pid], inspect(process), route, program.headers) for process in processes
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
