# SPDX-License-Identifier: Apache-2.0
"""
Export metrics every so often, from a thread of its own, to wherever the ``OTEL_*`` variables say.

The loop asks `MetricsClient.is_due` and gives a snapshot, which is added to the totals at once; encoding and sending
are done in the thread, by an exporter of the SDK's.  What could not be sent is part of the next export: nothing is
queued, so an endpoint that is dead or hangs loses nothing, and costs no memory.
"""

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Self

from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult

from otel_qemu.export import semconv
from otel_qemu.export.metrics import health
from otel_qemu.export.metrics.entries import Entry, metrics_data
from otel_qemu.export.metrics.exemplars import Exemplars
from otel_qemu.export.metrics.export_settings import MetricSettings
from otel_qemu.export.metrics.exporters import chosen, preferred_temporality
from otel_qemu.export.metrics.readings import Readings
from otel_qemu.export.metrics.report import MetricReport
from otel_qemu.export.resources import Resources
from otel_qemu.export.text import printable, without_queries
from otel_qemu.export.transport.answer import abandon
from otel_qemu.export.transport.sdk_log import logged
from otel_qemu.trace.histograms import DEFAULT_BOUNDS_S
from otel_qemu.trace.measurements import ProcessCounts, Snapshot
from otel_qemu.trace.names import Names

MOST_POINTS = 2_000
"""In a request: about 1 MB, of 4 that a Collector takes by default."""

_TOO_LARGE = re.compile(r"^(?!.*CLIENT:).*(larger than max|code: 413)")
"""In what the SDK's exporters log, of gRPC and of HTTP: the request is too large, and half of it may be taken.  With
``CLIENT:`` it is the answer that is too large."""


class MetricsClient:
    """
    A `meters.Meter`, which sends the last snapshot at its close.

    Args:
        settings: of metrics.
        exporter: takes them; None: metrics are off.
        name: of where they go, as people know it.
        others: gives further numbers of our own, those of traces, at each snapshot.
        warn_interval_s: the least time between two warnings.
        most_points: in a request.
        most_ended: series of guests and disks that are gone, kept until they are sent.
    """

    def __init__(
        self,
        settings: MetricSettings,
        exporter: MetricExporter | None,
        name: str,
        others: Callable[[], health.Numbers] = dict,
        warn_interval_s: float = 60.0,
        most_points: int = MOST_POINTS,
        most_ended: int = 10_000,
    ) -> None:
        self.settings = settings
        self._others = others
        moment = time.time_ns(), time.monotonic_ns()
        self.readings = Readings(settings, Resources(), *moment, self._own_numbers, most_ended)
        has_exemplars = exporter is not None and settings.exemplars
        self.exemplars = Exemplars(settings.bounds_s, self.readings.resource_of) if has_exemplars else None
        """Chooses among traces, and shows those that were sent; None: exemplars are off."""
        self.report = MetricReport(name, warn_interval_s)
        self._exporter = exporter
        self._most_points = most_points
        self._due_s = time.monotonic() + settings.interval_s
        self._last: Snapshot | None = None
        self._changed = threading.Condition()
        """Of the readings, and of the two that follow."""
        self._is_new = self._closing = False
        self._late_s = float("inf")
        """When an export that has begun will have taken longer than it may; infinite while none goes on."""
        self._worker: threading.Thread | None = None
        if exporter:
            self._worker = threading.Thread(target=self._work, args=(exporter,), name="metrics", daemon=True)
            self._worker.start()

    @classmethod
    def from_environment(
        cls, bounds_s: tuple[float, ...] = DEFAULT_BOUNDS_S, others: Callable[[], health.Numbers] = dict
    ) -> Self:
        """
        The client that the ``OTEL_*`` variables ask for.

        Args:
            bounds_s: of histograms, unless they are to be exponential.
            others: as the constructor takes them.

        Raises:
            BadInput: a variable has a value that it must not have.
        """
        settings, (exporter, name) = MetricSettings.from_environment(bounds_s), chosen()
        if exporter:
            settings = replace(settings, temporality=preferred_temporality(exporter, settings.temporality))
        return cls(settings, exporter, name, others)

    def is_due(self) -> bool:
        """Whether an export is to begin; once for each that does."""
        if self._worker is None or time.monotonic() < self._due_s:
            return False
        self._due_s = max(self._due_s + self.settings.interval_s, time.monotonic())
        return True

    def measure(self, snapshot: Snapshot) -> None:
        """Take a snapshot; the last one is kept until `close`, when traces have said what became of them."""
        if self._worker is None:
            return
        if time.monotonic() > self._late_s:  # the SDK's HTTP exporter has no limit for a whole answer
            self.report.fail(f"no answer in {self.settings.timeout_s:g} s")
        if snapshot.last:
            self._last = snapshot
        else:
            self._take(lambda: self.readings.fold(snapshot), is_new=True)

    def depart(self, processes: Sequence[ProcessCounts], names: Names) -> None:
        """Take the last counts of guests that have ended; they are part of the next export."""
        if self._worker:
            self._take(lambda: self.readings.depart(processes, names), is_new=False)

    def close(self, timeout_s: float = 5.0) -> None:
        """Send the last snapshot if that can be done in the time given, and stop; more calls do nothing."""
        worker, last = self._worker, self._last
        if worker is None or self._exporter is None:
            return
        if last:
            self._take(lambda: self.readings.fold(last), is_new=True)
        self._worker = None
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        worker.join(timeout_s)
        abandon(self._exporter.shutdown)
        self.report.close(sent_all=not worker.is_alive())

    def _take(self, add: Callable[[], None], is_new: bool) -> None:
        with self._changed:
            try:
                add()
            except Exception as error:  # a defect of ours must not end all metrics
                self.report.break_down(error)
                return
            self._is_new |= is_new
            self._changed.notify_all()

    def _work(self, exporter: MetricExporter) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_new or self._closing)
                if not self._is_new:
                    return
                self._is_new = False
            self._late_s = time.monotonic() + self.settings.timeout_s
            try:
                self._export(exporter)
            except Exception as error:  # the same
                self.report.break_down(error)
            self._late_s = float("inf")

    def _export(self, exporter: MetricExporter) -> None:
        """Send all there is, in requests that an endpoint takes, within the time that one export has."""
        deadline_s = time.monotonic() + self.settings.timeout_s
        entries = self._entries()
        while entries and (left_s := deadline_s - time.monotonic()) > 0:
            part = entries[: self._most_points]
            reason = _sent(exporter, part, left_s)
            if reason is None:
                with self._changed:
                    self.readings.deliver(part)
                self.report.arrived(len(part))
            elif _TOO_LARGE.search(reason) and len(part) > 1:
                self._most_points = len(part) // 2
                continue
            else:
                self.report.fail(reason)
            entries = entries[len(part) :]

    def _entries(self) -> list[Entry]:
        with self._changed:
            points = self.readings.points()
            shown = self.exemplars.collect(*self.readings.moment) if self.exemplars else {}
        return self.readings.entries(points, shown)

    def _own_numbers(self) -> health.Numbers:
        return self._others() | self.report.numbers() | {semconv.SERIES_LOST: self.readings.totals.lost}


def _sent(exporter: MetricExporter, entries: list[Entry], timeout_s: float) -> str | None:
    """Send a request; None if it was taken, else why not, as far as the exporter says."""
    with logged() as texts:
        try:
            result = exporter.export(metrics_data(entries), timeout_millis=timeout_s * 1000)
        except (Exception, SystemExit) as error:  # a stranger's code
            return printable(without_queries(f"{type(error).__name__}: {error}"))
    if result is MetricExportResult.SUCCESS:
        return None
    return "; ".join(reversed(texts[-2:])) or "the exporter does not say why"
