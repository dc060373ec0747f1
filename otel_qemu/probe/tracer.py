"""
A running trace: probes on every QEMU there is, batches of records out of the ring.

Guests come and go: `refresh` looks again, attaches to binaries that are new, and lets go of those nobody runs any more.
"""

import logging
import mmap
import time
from dataclasses import dataclass, field

from otel_qemu.errors import NothingToTrace, NotPossible
from otel_qemu.events import Batch
from otel_qemu.probe import attach
from otel_qemu.probe.inspection import Inspection, inspect
from otel_qemu.probe.processes import MappedFile, QemuProcess
from otel_qemu.probe.program import RING_PAGES, Program
from otel_qemu.probe.rights import require_rights
from otel_qemu.probe.ring import Ring
from otel_qemu.probe.selection import Identity, Selection
from otel_qemu.probe.sites import Site

log = logging.getLogger(__name__)


@dataclass
class _Traced:
    """A traced process and the binaries it needs attached."""

    process: QemuProcess
    inspection: Inspection
    binaries: list[tuple[MappedFile, list[Site]]] = field(default_factory=list)


class Tracer:
    """
    Probes attached to the selected QEMU processes; a context manager that leaves nothing attached.

    Raises:
        NotPossible: rights or parts are missing, or the kernel refuses the program.
    """

    def __init__(self, selection: Selection) -> None:
        require_rights()
        self._selection = selection
        self._program = Program()
        self._ring = Ring(self._program.map_fd("ring"), RING_PAGES * mmap.PAGESIZE)
        self._attachments: dict[tuple[int, int], attach.Attachment] = {}
        self._traced: dict[Identity, _Traced] = {}
        self._refused: set[Identity] = set()
        self.abandoned = 0
        """Entries of requests and calls in flight that were dropped because their process ended."""
        self.route = attach.route_of(self._program)

    def __enter__(self) -> "Tracer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def inspections(self) -> list[Inspection]:
        """What was found out about each process that is traced."""
        return [traced.inspection for traced in self._traced.values()]

    def require_any(self) -> None:
        """
        Insist that something is traced.

        Raises:
            NothingToTrace: no process could be attached to; why was logged.
        """
        if not self._traced:
            raise NothingToTrace("none of the QEMU processes can be traced: `otel-qemu check` says why")

    def refresh(self) -> None:
        """Attach to processes that have come; forget those that have gone."""
        present = self._selection.processes()
        for key in self._traced.keys() - present.keys():
            self._forget(key)
        for key in present.keys() - self._traced.keys() - self._refused:
            self._take(key, present[key])
        self._refused &= present.keys()
        self._detach_unused()

    def read(self) -> Batch:
        """Every record since the last call, and the clock's offset now."""
        return Batch(self._ring.read(), unix_offset_ns())

    def counters(self) -> dict[str, int]:
        """The kernel's counters by name (`events.COUNTERS`)."""
        return self._program.counters()

    def close(self) -> None:
        """Detach everything; the ring is readable until then."""
        for attachment in self._attachments.values():
            attachment.detach()
        self._attachments.clear()
        self._ring.close()
        self._program.close()

    def _take(self, key: Identity, process: QemuProcess) -> None:
        """Trace one more process, or remember why not."""
        inspection = inspect(process)
        for problem in inspection.problems:
            log.warning("process %d: %s", process.pid, problem)
        traced = _Traced(process, inspection, inspection.binaries())
        try:
            for file, sites in traced.binaries:
                self._attach(file, sites)
        except NotPossible as error:
            log.warning("process %d is not traced: %s", process.pid, error)
            self._refused.add(key)
            return
        if not traced.binaries:
            self._refused.add(key)
            return
        self._program.trace_process(process.pid, inspection.layout)
        self._traced[key] = traced

    def _attach(self, file: MappedFile, sites: list[Site]) -> None:
        if file.identity not in self._attachments:
            self._attachments[file.identity] = attach.attach(self._program, file.path, sites, self.route)

    def _forget(self, key: Identity) -> None:
        traced = self._traced.pop(key)
        self.abandoned += self._program.forget_process(traced.process.pid)

    def _detach_unused(self) -> None:
        used = {file.identity for traced in self._traced.values() for file, _ in traced.binaries}
        for identity in self._attachments.keys() - used:
            self._attachments.pop(identity).detach()


def unix_offset_ns() -> int:
    """CLOCK_REALTIME minus CLOCK_MONOTONIC in ns, from the tightest of three readings."""
    best_width, best_offset = 1 << 62, 0
    for _ in range(3):
        before, unix, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        if after - before < best_width:
            best_width, best_offset = after - before, unix - (before + after) // 2
    return best_offset
