# SPDX-License-Identifier: Apache-2.0
"""The client of metrics against exporters that take, refuse, raise, wait and hang."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData

from otel_qemu.export.delivery.fates import Fate, Stats, Tally
from otel_qemu.export.metrics import health
from otel_qemu.export.metrics.client import MetricsClient
from otel_qemu.export.metrics.export_settings import MetricSettings, Temporality
from otel_qemu.trace.histograms import DEFAULT_BOUNDS_S
from otel_qemu.trace.measurements import Snapshot
from tests.support.builders import names
from tests.support.metering import READ, WRITE, ImitatedExporter, Kernel, attributes_of, by_series, data_points
from tests.support.metric_clients import SCSI, WAIT_S, snapshot, wait_for_failures, wait_until

library = logging.getLogger("opentelemetry.exporter.imitated")


class Exporter(ImitatedExporter):
    """
    Imitates an exporter of the SDK's, which logs why it fails and returns no more than that it did.

    Args:
        reasons: of the first exports' failures; an empty one is of an export that does not fail.
    """

    def __init__(self, *reasons: str) -> None:
        super().__init__()
        self.reasons = list(reasons)
        self.most_points = 10**9
        self.hangs = threading.Event()
        self.requests: list[ExportMetricsServiceRequest] = []
        """Those it took."""
        self.asked = 0
        self.timeouts_ms: list[float] = []
        self.is_shut_down = threading.Event()

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: Any) -> MetricExportResult:
        """Take a request after a while, if at all."""
        self.asked += 1
        self.timeouts_ms.append(timeout_millis)
        while self.hangs.is_set():
            self.is_shut_down.wait(0.005)
        return super().export(metrics_data)

    def take(self, request: ExportMetricsServiceRequest) -> MetricExportResult:
        """Take a request, or say why not."""
        reason = self.reasons.pop(0) if self.reasons else ""
        if len(list(data_points(request))) > self.most_points:
            reason = "Failed to export metrics batch code: 413, reason: Too Large"
        if reason:
            library.error("%s", reason)
            return MetricExportResult.FAILURE
        self.requests.append(request)
        return MetricExportResult.SUCCESS

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        """Let go."""
        self.is_shut_down.set()


@pytest.fixture
def exporter() -> Exporter:
    return Exporter()


@pytest.fixture
def started() -> Iterator[Callable[..., MetricsClient]]:
    """Makes clients, which are closed in the end."""
    made: list[MetricsClient] = []

    def start(exporter: Exporter, limits: dict[str, int] | None = None, others: Callable[[], health.Numbers] = dict,
              **settings: Any) -> MetricsClient:  # fmt: skip
        chosen = MetricSettings(**{"interval_s": 1e-3, **settings})
        made.append(MetricsClient(chosen, exporter, "there", others, **(limits or {})))
        return made[-1]

    yield start
    for client in made:
        client.close(1.0)


def read_counts(exporter: Exporter) -> list[int]:
    """Of READ in every request that was taken."""
    found = [by_series(request).get((SCSI, "read ua-ceph-root sda READ")) for request in exporter.requests]
    return [point.count for point in found if point]


def test_a_measurement_is_sent(started: Any, exporter: Exporter, kernel: Kernel) -> None:
    """Once it is due, and what came after that with the next."""
    client = started(exporter)
    wait_until(client.is_due)
    client.measure(snapshot(kernel))
    wait_until(lambda: read_counts(exporter) == [1])
    kernel.request(READ, 5)
    client.measure(snapshot(kernel))
    wait_until(lambda: read_counts(exporter) == [1, 2])


def test_nothing_is_due_before_its_time(started: Any, exporter: Exporter) -> None:
    """With the default it is a minute; asked often meanwhile."""
    client = started(exporter, interval_s=60.0)
    assert not any(client.is_due() for _ in range(1000))


def test_an_export_is_due_once(started: Any, exporter: Exporter, kernel: Kernel) -> None:
    """Also while the endpoint hangs: what is measured meanwhile leaves with one request when it answers."""
    exporter.hangs.set()
    client = started(exporter, interval_s=0.05)
    for _ in range(3):
        wait_until(client.is_due)
        assert not client.is_due()
        client.measure(snapshot(kernel))
        kernel.request(READ, 5)
    wait_until(lambda: exporter.asked == 1)
    client.measure(snapshot(kernel))
    exporter.hangs.clear()
    wait_until(lambda: read_counts(exporter)[1:] == [4])


def test_an_endpoint_that_hangs_is_reported(
    started: Any, exporter: Exporter, kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    """The SDK sets no limit for a whole answer: the next snapshot finds that the last one has not left in time."""
    exporter.hangs.set()
    client = started(exporter, timeout_s=0.01)
    client.measure(snapshot(kernel))
    warning = "metrics are not getting through: endpoint there: no answer in 0.01 s"
    with caplog.at_level(logging.WARNING):
        wait_until(lambda: client.measure(snapshot(kernel)) or warning in caplog.text)
    exporter.hangs.clear()


def test_guests_that_end_while_the_endpoint_hangs_take_no_room(started: Any, exporter: Exporter) -> None:
    """Their last counts are kept for the endpoint, up to a bound; those that are given up are counted."""
    exporter.hangs.set()
    client = started(exporter, {"most_ended": 50})
    client.measure(Snapshot(time.time_ns(), time.monotonic_ns(), names()))
    wait_until(lambda: exporter.asked == 1)
    for pid in range(1, 1001):
        ended = Kernel(DEFAULT_BOUNDS_S, (pid, 1))
        ended.request(READ, 5)
        client.depart((ended.counts(),), names())
        if pid % 100 == 0:
            client.measure(Snapshot(time.time_ns(), time.monotonic_ns(), names()))
    series = sum(point.name.instrument == SCSI for point in client.readings.points())
    assert 0 < series <= 50
    assert client.readings.totals.lost > 900
    exporter.hangs.clear()
    wait_until(lambda: len(exporter.requests) == 2)
    client.measure(Snapshot(time.time_ns(), time.monotonic_ns(), names()))
    wait_until(lambda: len(exporter.requests) == 3)
    (lost,) = (point.as_int for _, metric, point in data_points(exporter.requests[2])
               if metric.name == "otel_qemu.metrics.series.lost")  # fmt: skip
    assert lost == client.readings.totals.lost


@pytest.mark.parametrize("kind", Temporality)
def test_a_failed_export_loses_nothing(started: Any, exporter: Exporter, kernel: Kernel, kind: Temporality) -> None:
    """The next carries what was not taken."""
    exporter.reasons = ["UNIMPLEMENTED", "UNAVAILABLE"]
    client = started(exporter, temporality=kind)
    for failed in (0, 1, 2):
        wait_for_failures(client, failed)
        client.measure(snapshot(kernel))
        kernel.request(READ, 7)
    wait_until(lambda: read_counts(exporter) == [3])
    assert (client.report.failed, client.report.sent) == (2, 1)
    client.measure(snapshot(kernel))
    wait_until(lambda: read_counts(exporter) == [3, 1 if kind != Temporality.CUMULATIVE else 4])


def test_what_is_too_large_is_halved(started: Any, exporter: Exporter, kernel: Kernel) -> None:
    """Until it is taken; everything arrives, and nothing twice."""
    kernel.request(WRITE, 5, wait_ns=1, completion_ns=1)
    exporter.most_points = 3
    client = started(exporter)
    client.measure(snapshot(kernel))
    client.close(WAIT_S)
    everything = [
        (service, metric.name, tuple(sorted(attributes_of(point).items())))
        for request in exporter.requests
        for service, metric, point in data_points(request)
    ]
    assert len(everything) == len(set(everything)) == client.report.sent_points
    assert sum(name == SCSI for _, name, _ in everything) == 2


def test_many_points_are_several_requests(started: Any, exporter: Exporter, kernel: Kernel) -> None:
    """A request is bounded from the start; one that fails keeps only its own points back."""
    exporter.reasons = ["UNIMPLEMENTED"]
    client = started(exporter, {"most_points": 4}, temporality=Temporality.DELTA)
    client.measure(snapshot(kernel, counters={"records": 1}))
    wait_until(lambda: client.report.sent > 0)
    client.measure(snapshot(kernel, counters={"records": 1}))
    client.close(WAIT_S)
    assert all(len(list(data_points(request))) <= 4 for request in exporter.requests)
    assert read_counts(exporter) == [1]


@pytest.mark.parametrize("kind", Temporality)
def test_our_own_numbers_are_not_lost_either(
    started: Any, exporter: Exporter, kernel: Kernel, kind: Temporality
) -> None:
    """Counters that the SDK has collected and could not send are part of what is collected next."""
    exporter.reasons = ["UNAVAILABLE", "UNAVAILABLE"]
    client = started(exporter, temporality=kind)
    for failed, records in enumerate((1, 3, 7)):
        wait_for_failures(client, failed)
        client.measure(snapshot(kernel, counters={"records": records}))
    wait_until(lambda: own_counts(exporter, "records") == [7])
    client.measure(snapshot(kernel, counters={"records": 12}))
    wait_until(lambda: own_counts(exporter, "records") == [7, 5 if kind is Temporality.DELTA else 12])


def own_counts(exporter: Exporter, event: str) -> list[int]:
    """Of a kernel counter in every request that was taken."""
    return [
        point.as_int
        for request in exporter.requests
        for _, metric, point in data_points(request)
        if metric.name == "otel_qemu.bpf.events" and attributes_of(point) == {"otel_qemu.bpf.event": event}
    ]


def test_one_export_has_a_time(started: Any, exporter: Exporter, kernel: Kernel) -> None:
    """An exporter gets the rest of it as its timeout; requests that had no time are part of the next export."""
    exporter.hangs.set()
    client = started(exporter, {"most_points": 4}, timeout_s=0.2)
    client.measure(snapshot(kernel))
    wait_until(lambda: exporter.asked == 1)
    assert 0 < exporter.timeouts_ms[0] <= 200
    over_s = time.monotonic() + 0.2
    wait_until(lambda: time.monotonic() > over_s)
    exporter.hangs.clear()
    wait_until(lambda: client.report.sent == 1)
    exporter.hangs.set()
    client.measure(snapshot(kernel))
    wait_until(lambda: exporter.asked == 2)
    exporter.hangs.clear()
    client.close(WAIT_S)
    assert read_counts(exporter)[-1:] == [1]


def test_an_exporter_that_exits_has_failed(
    started: Any, exporter: Exporter, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes itself for a program; the next export is made."""
    monkeypatch.setattr(exporter, "export", lambda *_, **__: sys.exit("no token"))
    client = started(exporter)
    client.measure(snapshot(kernel))
    wait_for_failures(client, 1)
    monkeypatch.undo()
    client.measure(snapshot(kernel))
    wait_until(lambda: read_counts(exporter) == [1])


def test_an_answer_that_is_too_large_is_no_request_that_is(started: Any, kernel: Kernel) -> None:
    """Half of the request would arrive a second time."""
    reason = "error code: RESOURCE_EXHAUSTED, error details: CLIENT: Received message larger than max (9 vs. 8)"
    exporter = Exporter(reason)
    client = started(exporter)
    client.measure(snapshot(kernel))
    wait_for_failures(client, 1)
    assert exporter.asked == 1


def test_an_exporter_that_raises_has_failed(
    started: Any, exporter: Exporter, kernel: Kernel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is a stranger's code; the next export is made."""
    monkeypatch.setattr(exporter, "export", None)
    client = started(exporter)
    with caplog.at_level(logging.WARNING):
        client.measure(snapshot(kernel))
        wait_for_failures(client, 1)
    assert (
        "metrics are not getting through: endpoint there: TypeError: 'NoneType' object is not callable" in caplog.text
    )
    monkeypatch.undo()
    client.measure(snapshot(kernel))
    wait_until(lambda: read_counts(exporter) == [1])


def test_failures_are_told_once_in_a_while(
    started: Any, exporter: Exporter, kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    """With the endpoint, the reason that the library logged, and what can be done; nothing else is logged."""
    exporter.reasons = ["UNIMPLEMENTED"] * 5
    client = started(exporter)
    with caplog.at_level(logging.WARNING):
        for failed in range(1, 6):
            client.measure(snapshot(kernel))
            wait_for_failures(client, failed)
    (record,) = caplog.records
    assert record.message.startswith("metrics are not getting through: endpoint there: UNIMPLEMENTED")
    assert "OTEL_METRICS_EXPORTER=none" in record.message


def test_a_defect_of_ours_ends_nothing(
    started: Any, exporter: Exporter, kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has it, and the next export is made."""
    client = started(exporter)
    broken = replace(snapshot(kernel), names=None)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        client.measure(broken)
        client.measure(snapshot(kernel))
        wait_until(lambda: read_counts(exporter) == [1])
    assert "metrics could not be made, which is a defect: AttributeError" in caplog.text


def test_close_sends_the_last_measurement(started: Any, exporter: Exporter, kernel: Kernel) -> None:
    """With what became of traces until then; nothing is sent after it, and closing twice is closing once."""
    stats = Stats()
    client = started(exporter, others=lambda: health.of_traces(stats, 7), interval_s=60.0)
    client.measure(snapshot(kernel, last=True))
    stats = Stats({**Stats().by_fate, Fate.SENT: Tally(2, 1), Fate.QUEUE_FULL: Tally(1, 1)})
    client.close(WAIT_S)
    client.close(WAIT_S)
    assert read_counts(exporter) == [1]
    wait_until(exporter.is_shut_down.is_set)
    ours = {
        (metric.name, *attributes_of(point).values()): point.as_int
        for _, metric, point in data_points(exporter.requests[0])
        if metric.name.startswith(("otel_qemu.traces", "otel_qemu.spans"))
    }
    assert ours["otel_qemu.spans.sent",] == 2
    assert ours["otel_qemu.traces.sent",] == 1
    assert ours["otel_qemu.traces.shed",] == 7
    assert ours["otel_qemu.spans.lost", "queue_full"] == 1
    assert ours["otel_qemu.spans.queued",] == 0
    assert ("otel_qemu.spans.lost", "disabled") not in ours
    client.measure(snapshot(kernel))
    assert not client.is_due()
    assert client.report.summary().endswith("data points sent to there")


def test_others_are_asked_by_who_measures(started: Any, exporter: Exporter, kernel: Kernel) -> None:
    """What the sampler and the client of traces count is of the loop's thread, and is changed by it meanwhile."""
    asked: list[threading.Thread] = []

    def others() -> health.Numbers:
        asked.append(threading.current_thread())
        return {}

    client = started(exporter, others=others)
    client.measure(snapshot(kernel))
    client.close(WAIT_S)
    assert asked == [threading.current_thread()]


def test_close_ends_in_time(started: Any, exporter: Exporter, kernel: Kernel) -> None:
    """An endpoint that never answers delays nobody for longer than was said."""
    exporter.hangs.set()
    client = started(exporter)
    client.measure(snapshot(kernel))
    client.measure(snapshot(kernel, last=True))
    began = time.monotonic()
    client.close(0.4)
    assert time.monotonic() - began < 5
    assert client.report.summary().endswith("the last export did not arrive")
    exporter.hangs.clear()
