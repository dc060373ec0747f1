"""
Send metrics every so often, from a thread of its own, to wherever the ``OTEL_*`` variables say.

The loop asks `MetricsClient.is_due` and hands over a measurement, which is added to the totals at once; encoding and
sending are done in the thread.  What could not be sent is part of the next export: nothing is queued, so an endpoint
that is dead or hangs loses nothing, and costs no memory.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Self

from otel_qemu.export import semconv
from otel_qemu.export.delivery.fates import Stats
from otel_qemu.export.metrics import own_metrics
from otel_qemu.export.metrics.data_points import Exemplars as Shown
from otel_qemu.export.metrics.exemplars import Exemplars
from otel_qemu.export.metrics.metric_report import MetricReport
from otel_qemu.export.metrics.metric_settings import MetricSettings
from otel_qemu.export.metrics.metrics import Metrics
from otel_qemu.export.metrics.series_totals import Point
from otel_qemu.export.resources import Resources
from otel_qemu.export.transport.answer import Answer, Outcome, Transport, abandon
from otel_qemu.export.transport.backoff import Backoff
from otel_qemu.export.transport.destination import Destination, destination
from otel_qemu.export.transport.endpoint import Signal
from otel_qemu.trace.histograms import DEFAULT_BOUNDS_S
from otel_qemu.trace.measurements import Measurements

MOST_POINTS = 2_000
"""In a request: about 1 MB, of 4 that a Collector takes by default."""


class MetricsClient:
    """
    A `meters.Meter`; a context manager that sends the last measurement at its end.

    Args:
        settings: of metrics.
        target: where they go.
        warn_interval_s: the least time between two warnings.
        trace_stats: gives what became of traces so far (`own_metrics.of_traces`); None: nobody counts that.
        over_rate: gives how many traces the sampler has left out so far, above the rate of their guest; None: the same.
    """

    def __init__(
        self,
        settings: MetricSettings,
        target: Destination,
        warn_interval_s: float = 60.0,
        trace_stats: Callable[[], Stats] | None = None,
        over_rate: Callable[[], int] | None = None,
    ) -> None:
        self.settings = settings
        self._transport = target.transport
        self._trace_stats, self._over_rate = trace_stats, over_rate
        self._metrics = Metrics(settings, Resources(), time.time_ns(), time.monotonic_ns(), self._others)
        self.exemplars = Exemplars(settings.bounds_s, self._metrics.resource_of) if self._has_exemplars else None
        """Tell it of traces, and of those that were sent; None: there are to be none."""
        self.report = MetricReport(target.name, warn_interval_s)
        self._backoff = Backoff()
        self._quiet_until_s = 0.0
        self._due_s = time.monotonic() + settings.interval_s
        self._last: Measurements | None = None
        self._most_points = MOST_POINTS
        self._changed = threading.Condition()
        """Of the metrics, and of the three that follow."""
        self._is_new = self._closing = False
        self._deadline_s = float("inf")
        self._worker: threading.Thread | None = None
        if target.transport:
            self._worker = threading.Thread(target=self._work, args=(target.transport,), name="metrics", daemon=True)
            self._worker.start()

    @classmethod
    def from_environment(
        cls,
        bounds_s: tuple[float, ...] = DEFAULT_BOUNDS_S,
        trace_stats: Callable[[], Stats] | None = None,
        over_rate: Callable[[], int] | None = None,
    ) -> Self:
        """
        The client that the ``OTEL_*`` variables ask for.

        Args:
            bounds_s: of histograms, unless they are to be exponential.
            trace_stats, over_rate: as the constructor takes them.

        Raises:
            BadInput: a variable has a value that it must not have.
        """
        settings = MetricSettings.from_environment(bounds_s)
        return cls(settings, destination(Signal.METRICS), trace_stats=trace_stats, over_rate=over_rate)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _has_exemplars(self) -> bool:
        return bool(self._transport) and self.settings.exemplars

    def is_due(self) -> bool:
        """Whether an export is to begin; once for each that does."""
        if self._worker is None or time.monotonic() < self._due_s:
            return False
        self._due_s = max(self._due_s + self.settings.interval_s, time.monotonic())
        return True

    def measure(self, measurements: Measurements) -> None:
        """Take a measurement; the last one is kept until `close`, when traces have said what became of them."""
        if self._worker is None:
            return
        if measurements.last:
            self._last = measurements
        else:
            self._fold(measurements)

    def close(self, timeout_s: float = 5.0) -> None:
        """Send the last measurement if that can be done in the time given, and stop; more calls do nothing."""
        worker, self._worker = self._worker, None
        if worker is None or self._transport is None:
            return
        if self._last:
            self._fold(self._last)
        with self._changed:
            self._deadline_s = time.monotonic() + timeout_s
            self._closing = True
            self._changed.notify_all()
        worker.join(timeout_s)
        abandon(self._transport)
        self.report.close(sent_all=not worker.is_alive())

    def _fold(self, measurements: Measurements) -> None:
        with self._changed:
            try:
                self._metrics.fold(measurements)
            except Exception as error:  # a defect of ours must not end all metrics
                self.report.break_down(error)
                return
            self._is_new |= not measurements.ended
            self._changed.notify_all()

    def _work(self, transport: Transport) -> None:
        while self._is_wanted():
            try:
                self._export(transport)
            except Exception as error:  # the same
                self.report.break_down(error)

    def _is_wanted(self) -> bool:
        """Wait for something new; False: there will be nothing any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_new or self._closing)
            is_new, self._is_new = self._is_new, False
            return is_new

    def _export(self, transport: Transport) -> None:
        """Send all there is, in requests that an endpoint takes, within the time that one export has."""
        if time.monotonic() < self._quiet_until_s:
            self.report.postpone()
            return
        deadline_s = time.monotonic() + self.settings.timeout_s
        points, shown = self._points()
        while points:
            part = points[: self._most_points]
            answer = self._send(transport, self._metrics.request(part, shown), deadline_s)
            if answer.outcome is Outcome.TOO_LARGE and len(part) > 1:
                self._most_points = len(part) // 2
                continue
            self._settle(part, answer)
            # An endpoint that is not there is not asked again for the rest: that is part of the next export too.
            points = [] if answer.outcome is Outcome.RETRY else points[len(part) :]

    def _points(self) -> tuple[list[Point], Shown]:
        with self._changed:
            points = sorted(self._metrics.points(), key=lambda point: point.name)
            return points, self.exemplars.collect(*self._metrics.moment) if self.exemplars else {}

    def _settle(self, part: Sequence[Point], answer: Answer) -> None:
        if answer.outcome is Outcome.SENT:
            with self._changed:
                self._metrics.deliver(part)
        self.report.settle(answer, len(part))

    def _send(self, transport: Transport, body: bytes, deadline_s: float) -> Answer:
        """Send a request, again and again while the endpoint asks for that and there is time."""
        while (answer := transport.send(body)).outcome is Outcome.RETRY:
            pause_s = self._backoff.next_s(answer.retry_after_s)
            if answer.retry_after_s is not None:
                self._quiet_until_s = time.monotonic() + pause_s
            if not self._pause(pause_s, deadline_s):
                return answer
            self.report.retry()
        self._backoff.reset()
        return answer

    def _pause(self, pause_s: float, deadline_s: float) -> bool:
        """Wait so long; False if there is not the time, which `close` may shorten meanwhile."""
        until_s = time.monotonic() + pause_s
        with self._changed:
            while until_s <= min(deadline_s, self._deadline_s):
                if (left_s := until_s - time.monotonic()) <= 0:
                    return True
                self._changed.wait(left_s)
        return False

    def _others(self) -> own_metrics.Numbers:
        numbers = own_metrics.of_traces(self._trace_stats()) if self._trace_stats else {}
        if self._over_rate:
            numbers[semconv.TRACES_SHED, ()] = self._over_rate()
        return {**numbers, **self.report.numbers(), (semconv.SERIES_LOST, ()): self._metrics.lost_series}
