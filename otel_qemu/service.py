# SPDX-License-Identifier: Apache-2.0
"""
The loop: drain the ring, join, give the traces to the sinks, and look for new guests.

It ends on SIGINT, on SIGTERM, or after its duration.  It leaves nothing attached.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from otel_qemu.errors import NothingToTrace
from otel_qemu.events import NO_RECORDS, Batch
from otel_qemu.meters import Meter, Meters
from otel_qemu.notify import Notifier
from otel_qemu.policy import EVERYTHING, KeepPolicy
from otel_qemu.probe.child_process import while_wanted
from otel_qemu.probe.inlined import inlined_functions
from otel_qemu.probe.naming import Naming
from otel_qemu.probe.process_memory import release_compiler_memory
from otel_qemu.probe.rights import require_rights
from otel_qemu.probe.selection import Selection
from otel_qemu.probe.tracer import Tracer, unix_offset_ns
from otel_qemu.signals import ended_by_signals
from otel_qemu.sinks import Sink
from otel_qemu.trace.correlate import traces_of_requests
from otel_qemu.trace.histograms import DEFAULT_BOUNDS_S, Histograms
from otel_qemu.trace.hung import HungRequests
from otel_qemu.trace.names import Guest, Names
from otel_qemu.trace.pipeline import Pipeline
from otel_qemu.trace.traces import Traces

log = logging.getLogger(__name__)

END_POLL_S = 0.01
"""Time between two looks, at the end, at whether requests are still in flight."""

Ready = Callable[[Tracer, Iterable[Guest]], None]


@dataclass(frozen=True)
class Intervals:
    """
    How often the loop does each of its tasks, and how long it waits at the end.

    Attributes:
        drain_s: between two readings of the ring.  The ring holds some 120,000 records, so the default allows 240,000
            per second.  The cost of a reading hardly depends on the number of records.
        refresh_s: between two searches for new guests.
        look_s: between two searches for requests that hang, and two reports to the service manager.
        end_s: time for requests in flight to end, once tracing has been stopped.
        remember_s: how long the names of an ended guest are kept, if they are not needed for a report at the end.
    """

    drain_s: float = 0.5
    refresh_s: float = 1.0
    look_s: float = 5.0
    end_s: float = 1.0
    remember_s: float = 60.0


class Service:
    """A tracer, the pipeline and some sinks, run together."""

    def __init__(
        self,
        selection: Selection,
        sinks: Sequence[Sink],
        *,
        policy: KeepPolicy = EVERYTHING,
        bounds_s: tuple[float, ...] = DEFAULT_BOUNDS_S,
        meters: Sequence[Meter] = (),
        intervals: Intervals | None = None,
        notifier: Notifier | None = None,
        audit: bool = False,
        make_tracer: Callable[..., Tracer] = Tracer,
    ) -> None:
        """
        Prepare; `run` does the rest.

        Args:
            selection: of guests.
            sinks: each of them takes every batch and its traces.
            policy: which traces get a record.
            bounds_s: of the exact histograms.
            meters: each of them takes measurements when it is due, and once more at the end.  Where there are meters,
                the service forgets a guest that has ended: over time there are more of those than memory.
            intervals: of the loop.
            notifier: reports to the service manager that we are ready, alive and stopping.
            audit: whether to compare the joins with the exact chain.
            make_tracer: takes the first five arguments of `Tracer`.
        """
        self._selection = selection
        self._sinks = sinks
        self._policy = policy
        self._bounds_s = bounds_s
        self._intervals = intervals or Intervals()
        self._notifier = notifier or Notifier({})
        self._hung = HungRequests()
        self._naming = Naming(selection.describe)
        self._stopping = threading.Event()
        self._warned: set[str] = set()
        self._problem: str | None = None
        self._ended_at: dict[int, float] = {}
        self._remembers = not meters
        self.pipeline = Pipeline(audit)
        """Has the counts of the records, and the audit's verdicts if there is an audit."""
        self._make_tracer = make_tracer
        self._meters = Meters(meters, selection, self._naming, self.pipeline)
        self.audited = False
        """Whether the exact chain could be attached to any process."""
        self.counters: dict[str, int] = {}
        """The kernel's counters at the end."""
        self.histograms = Histograms(bounds_s)
        """The kernel's histograms at the end.  With meters, they leave out guests that ended before."""
        self.abandoned = 0
        """Requests and calls that were in flight when their process ended."""
        self.still_in_flight = 0, 0
        """
        SCSI requests, and RBD calls that could be walked, in flight at the end.  They are in no histogram and no trace.
        """
        self.traced: dict[int, dict[str, Any]] = {}
        """The builds and layouts that a process's records were made with, by pid (`Inspection.provenance`)."""

    @property
    def names(self) -> Names:
        """The names of guests, disks and images that are known."""
        return self._naming.names

    def run(self, duration_s: float | None = None, ready: Ready = lambda *_: None, wait: bool = False) -> None:
        """
        Trace until `stop`, a signal, or the end of the duration.

        Args:
            duration_s: counted from when everything is attached; None: without end.
            ready: called once everything is attached.
            wait: whether to wait for a first process, instead of raising NothingToTrace.

        Raises:
            NothingToTrace: no process fits the selection.
            NotPossible: rights or parts are missing.
        """
        with ended_by_signals(self._stopping), while_wanted(self._is_wanted):
            if not wait:
                self._require_guests()
            # The program is loaded even before there is a guest, so that missing rights are reported at once.
            with self._tracer() as tracer:
                self._trace(tracer, duration_s, ready, wait)

    def _is_wanted(self) -> bool:
        """Return whether to wait on for a file's reader, which may take a minute; report that the loop is alive."""
        self._notifier.busy()
        return not self._stopping.is_set()

    def _require_guests(self) -> None:
        """Raise if no guest is found; missing rights go first, because they hide the processes of other users."""
        try:
            self._selection.require()
        except NothingToTrace:
            require_rights()
            raise

    def _trace(self, tracer: Tracer, duration_s: float | None, ready: Ready, wait: bool) -> None:
        self._refresh(tracer)
        if not wait:
            tracer.require_any()
        release_compiler_memory()
        ready(tracer, self._selection.guests.values())
        self._notifier.ready()
        self._loop(tracer, duration_s)
        self._notifier.stopping()
        self._let_end(tracer)
        self._hand_out(Batch(NO_RECORDS, unix_offset_ns()), self.pipeline.finish())
        self._naming.learn_devices(tracer.series())
        self._meters.last(tracer)
        self.counters, self.histograms = tracer.counters(), tracer.histograms()
        self.abandoned = tracer.abandoned

    def stop(self) -> None:
        """End `run` soon, from any thread."""
        self._stopping.set()

    def _tracer(self) -> Tracer:
        audits = self.pipeline.audit is not None
        return self._make_tracer(self._selection, self._policy, self._bounds_s, audits, self._remembers)

    def _loop(self, tracer: Tracer, duration_s: float | None) -> None:
        end = None if duration_s is None else time.monotonic() + duration_s
        refresh_at = look_at = time.monotonic()
        while not self._stopping.is_set() and (end is None or time.monotonic() < end):
            self._stopping.wait(self._intervals.drain_s)
            self._drain(tracer)
            if time.monotonic() >= refresh_at:
                self._refresh(tracer)
                refresh_at = time.monotonic() + self._intervals.refresh_s
            if time.monotonic() >= look_at:
                self._report_hung(tracer)
                self._warn_of_inlined(tracer)
                self._naming.learn_devices(tracer.series())  # a disk whose records were all dropped is in no trace
                self._notifier.status(self._status(tracer))
                look_at = time.monotonic() + self._intervals.look_s
            self._meters.due(tracer)
            self._notifier.alive()

    def _drain(self, tracer: Tracer) -> None:
        batch = tracer.read()
        if len(batch) or self.pipeline.held:
            for part, traces in self.pipeline.feed(batch):
                self._hand_out(part, traces)

    def _hand_out(self, batch: Batch, traces: Traces) -> None:
        self._naming.learn_devices(traces.by_request)
        self._naming.learn_images(self.pipeline.images)
        for sink in self._sinks:
            sink.take(batch, traces, self.names)

    def _let_end(self, tracer: Tracer) -> None:
        """Put nothing new in flight, wait a little for the rest to end, detach, and read the ring a last time."""
        tracer.take_no_more()
        end = time.monotonic() + self._intervals.end_s
        while any(tracer.still_in_flight()) and time.monotonic() < end:
            time.sleep(END_POLL_S)
            self._drain(tracer)
        tracer.detach()
        self._drain(tracer)
        self.still_in_flight = tracer.still_in_flight()

    def _status(self, tracer: Tracer) -> str:
        guests, stats, problem = len(self._selection.guests), self.pipeline.stats, self._selection.problem
        if not guests:
            return f"waiting for a guest{f': {problem}' if problem else ''}"
        traced = f"{len(tracer.inspections)} of {guests} guests traced"
        return f"{traced}; {stats.requests} SCSI requests and {stats.calls} RBD calls kept"

    def _refresh(self, tracer: Tracer) -> None:
        ended = tracer.refresh()
        self._meters.ended(ended)
        if not self._remembers:
            self._forget_ended(process.identity[0] for process in ended)
        self.audited |= bool(tracer.audited)
        if self._selection.problem != self._problem:
            self._problem = self._selection.problem
            if self._problem:
                log.warning("%s", self._problem)
        self._naming.learn_guests(self._selection.guests)
        self.traced |= {found.process.pid: found.provenance() for found in tracer.inspections}

    def _forget_ended(self, pids: Iterable[int]) -> None:
        """Forget the names of processes that have ended, once their last traces have left."""
        now = time.monotonic()
        self._ended_at |= dict.fromkeys(pids, now)
        for pid in [pid for pid, ended in self._ended_at.items() if ended + self._intervals.remember_s <= now]:
            del self._ended_at[pid]
            if pid not in self._selection.guests:
                self._naming.forget(pid)
                self.traced.pop(pid, None)

    def _report_hung(self, tracer: Tracer) -> None:
        """Give the sinks each request that hangs, once: its end may never come."""
        hung = self._hung.select(tracer.in_flight(), time.monotonic_ns())
        if len(hung):
            offset_ns = unix_offset_ns()
            self._hand_out(Batch(hung, offset_ns), traces_of_requests(hung, offset_ns))

    def _warn_of_inlined(self, tracer: Tracer) -> None:
        for problem in set(inlined_functions(tracer.counters())) - self._warned:
            self._warned.add(problem)
            log.warning("%s", problem)
