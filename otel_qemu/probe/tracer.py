# SPDX-License-Identifier: Apache-2.0
"""
A running trace: probes in every selected QEMU process, and batches of records out of the ring.

Guests come and go.  `refresh` attaches to new binaries, and detaches from those that no process runs any more.
"""

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from otel_qemu.errors import BadInput, NothingToTrace, NotPossible
from otel_qemu.events import Batch, Records, Stage
from otel_qemu.policy import EVERYTHING, KeepPolicy
from otel_qemu.probe import attach
from otel_qemu.probe.exact_chain import ChainProbes
from otel_qemu.probe.inspection import Inspection, Inspector
from otel_qemu.probe.processes import MappedFile, QemuProcess
from otel_qemu.probe.program import Program
from otel_qemu.probe.proof import Proofs
from otel_qemu.probe.rights import require_rights
from otel_qemu.probe.ring import Ring
from otel_qemu.probe.selection import Identity, Selection
from otel_qemu.probe.sites import Site
from otel_qemu.trace.histograms import DEFAULT_BOUNDS_S, Histograms, in_ns
from otel_qemu.trace.kernel_histograms import MOST_BOUNDS, histograms_of
from otel_qemu.trace.measurements import ProcessCounts

log = logging.getLogger(__name__)


@dataclass
class _Known:
    """A process, its inspection, and the binaries that have probes for it; without any, it is not traced."""

    process: QemuProcess
    inspection: Inspection
    attached: list[MappedFile] = field(default_factory=list)


class Tracer:
    """
    Probes attached to the selected QEMU processes; a context manager that leaves nothing attached.

    Raises:
        BadInput: there are more bounds than a histogram in the kernel has room for.
        NotPossible: rights or parts are missing, or the kernel refuses the program.
    """

    def __init__(
        self,
        selection: Selection,
        policy: KeepPolicy = EVERYTHING,
        bounds_s: tuple[float, ...] = DEFAULT_BOUNDS_S,
        audit: bool = False,
        remember: bool = True,
        load_program: Callable[[bool], Program] = Program,
        inspector: Inspector | None = None,
    ) -> None:
        """
        Load the program; nothing is attached before `refresh`.

        Args:
            selection: of processes.
            policy: which traces get a record.
            bounds_s: of the kernel's histograms, at most `kernel_histograms.MOST_BOUNDS`.
            audit: whether to attach the exact chain as well.
            remember: whether `histograms` includes processes that have ended.  That takes more memory with each guest.
            load_program: loads the program, with or without the audit.
            inspector: of the processes; None: one that knows no binary yet.
        """
        if len(bounds_s) > MOST_BOUNDS:
            raise BadInput(
                f"bounds: {len(bounds_s)} are too many for a histogram in the kernel: give at most {MOST_BOUNDS}"
            )
        require_rights()
        self.route = attach.usable_route()
        self.bounds_s = bounds_s
        self._ended = Histograms(bounds_s)
        self._remembers = remember
        self._selection = selection
        self._inspector = inspector or Inspector()
        self._attachments: dict[tuple[int, int], attach.Attachment] = {}
        self._known: dict[Identity, _Known] = {}
        self.abandoned = 0
        """Requests and calls in flight that were dropped because their process ended, or was inspected again."""
        with contextlib.ExitStack() as undo:
            self._program = undo.enter_context(contextlib.closing(load_program(audit)))
            self._program.set_up(in_ns(bounds_s), policy)
            ring = Ring(self._program.map_fd("ring"), self._program.ring_bytes)
            self._ring = undo.enter_context(contextlib.closing(ring))
            self._proofs = Proofs(self._program)
            self._chain = ChainProbes(self._program, self._inspector.debuginfod) if audit else None
            self._undo = undo.pop_all()

    def __enter__(self) -> "Tracer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def inspections(self) -> list[Inspection]:
        """The inspection of each process that is traced."""
        return [known.inspection for known in self._known.values() if known.attached]

    @property
    def probes(self) -> int:
        """The number of sites that have a probe."""
        return sum(attachment.sites for attachment in self._attachments.values())

    def require_any(self) -> None:
        """
        Check that at least one process is traced.

        Raises:
            NothingToTrace: no process is traced; warnings have given the reasons.
        """
        if not self.inspections:
            raise NothingToTrace("none of the QEMU processes can be traced: `otel-qemu check` says why")

    def refresh(self) -> list[ProcessCounts]:
        """Attach to new processes, forget those that have ended, and return the last counts of the latter."""
        present = self._selection.processes()
        gone = [self._forget(identity) for identity in self._known.keys() - present.keys()]
        for identity, process in present.items():
            known = self._known.get(identity)
            if known is None or known.process != process:  # new, or it has loaded librbd since
                self._known[identity] = self._take(process)
        self._detach_unused()
        self._proofs.settle()
        return gone

    def read(self) -> Batch:
        """Return every record since the last call, with the clock's offset now."""
        read_ns = time.monotonic_ns()
        return Batch(self._ring.read(), unix_offset_ns(), read_ns)

    @property
    def audited(self) -> list[int]:
        """The ids of the processes that the exact chain is attached to."""
        return self._chain.pids if self._chain else []

    def histograms(self) -> Histograms:
        """Return the kernel's histograms of every request and call, independent of their records."""
        found = histograms_of(*self._program.latencies(), self.bounds_s)
        found.add_all(self._ended)
        return found

    def counts(self) -> list[ProcessCounts]:
        """Return the counts of each traced process."""
        series, latencies = self._program.latencies()
        pids = series["pid"]
        traced = [identity for identity, known in self._known.items() if known.attached]
        return [ProcessCounts(each, series[pids == each[0]], latencies[pids == each[0]]) for each in traced]

    def series(self) -> NDArray[np.void]:
        """Return the disks and operations that are counted: dtype `kernel_histograms.SERIES`, shape (n,)."""
        return self._program.series()

    def in_flight(self) -> Records:
        """Return the incomplete records of the SCSI requests in flight, in no order; dtype `RECORD`."""
        return self._program.in_flight()

    def counters(self) -> dict[str, int]:
        """Return the kernel's counters by name (`events.COUNTERS`)."""
        return self._program.counters()

    def take_no_more(self) -> None:
        """Put nothing new in flight from now on.  Requests in flight go on to their end, with their further calls."""
        self._program.set_stage(Stage.ENDING)

    def still_in_flight(self) -> tuple[int, int]:
        """Return the number of SCSI requests, and of walked RBD calls, in flight, now or at `detach`."""
        return self._program.still_in_flight()

    def detach(self) -> None:
        """
        Detach everything; ring, counters and histograms are readable until `close`.

        The kernel removes probes one by one, in its own order.  So all hits are ignored before the first probe is
        removed; otherwise a submit could be seen whose end is missed.
        """
        self._program.set_stage(Stage.ENDED)
        for attachment in self._attachments.values():
            attachment.detach()
        self._attachments.clear()
        self._proofs.detach()
        if self._chain:  # last, so that no request in flight is without its chain
            self._chain.detach()

    def close(self) -> None:
        """Detach everything and unload the program."""
        self.detach()
        self._undo.close()

    def _take(self, process: QemuProcess) -> "_Known":
        """
        Trace every layer of a process that can be traced, once all its probes are attached.

        If the process is traced already, it has loaded librbd since, or executed another binary.  Its requests in
        flight are dropped then, because their ends or calls may have been missed.
        """
        known = _Known(process, self._inspector.inspect(process))
        for problem in known.inspection.problems:
            log.warning("process %d: %s", process.pid, problem)
        self.abandoned += self._program.pause_process(process.pid)
        proving = False
        try:
            if self._chain:  # first, so that the chain of every request is seen from its beginning
                self._chain.begin(known.inspection, self.route)
            proving = self._proofs.begin(known.inspection, self.route)
            for file, sites in known.inspection.binaries():
                self._attach(file, sites)
                known.attached.append(file)
        except NotPossible as error:
            log.warning("process %d: %s", process.pid, error)
        layout, both = known.inspection.layout, len(known.attached) > 1
        if known.attached:
            self._program.trace_process(process.pid, layout, proving, keep_all=both and not layout.walk_known)
        else:  # it may have ended meanwhile
            self._let_go(process.pid)
        return known

    def _attach(self, file: MappedFile, sites: list[Site]) -> None:
        if file.identity not in self._attachments:
            self._attachments[file.identity] = attach.attach(self._program, file.path, sites, self.route)

    def _forget(self, identity: Identity) -> ProcessCounts:
        del self._known[identity]
        series, latencies = self._program.latencies()
        its = series["pid"] == identity[0]
        counts = ProcessCounts(identity, series[its], latencies[its])
        if self._remembers:
            self._ended.add_all(histograms_of(counts.series, counts.latencies, self.bounds_s))
        self.abandoned += self._program.forget_process(identity[0])
        self._let_go(identity[0])
        return counts

    def _let_go(self, pid: int) -> None:
        """Detach a process's probes of proof and exact chain, if no other process needs them."""
        self._proofs.forget(pid)
        if self._chain:
            self._chain.forget(pid)

    def _detach_unused(self) -> None:
        used = {file.identity for known in self._known.values() for file in known.attached}
        for identity in self._attachments.keys() - used:
            self._attachments.pop(identity).detach()


def unix_offset_ns() -> int:
    """Return CLOCK_REALTIME minus CLOCK_MONOTONIC in ns, from the tightest of three readings."""
    best_width, best_offset = 1 << 62, 0
    for _ in range(3):
        before, unix, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        if after - before < best_width:
            best_width, best_offset = after - before, unix - (before + after) // 2
    return best_offset
