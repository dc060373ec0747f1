"""The client of metrics against endpoints that take, refuse, cut, wait and hang."""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from otel_qemu.export.delivery.fates import Fate, Stats, Tally
from otel_qemu.export.metrics import client as module
from otel_qemu.export.metrics import series_totals
from otel_qemu.export.metrics.client import MetricsClient
from otel_qemu.export.metrics.metric_settings import MetricSettings, Temporality
from otel_qemu.export.transport.answer import Answer, Outcome
from otel_qemu.export.transport.destination import Destination
from otel_qemu.trace.histograms import DEFAULT_BOUNDS_S
from otel_qemu.trace.measurements import Measurements
from tests.unit.builders import names
from tests.unit.metering import READ, WRITE, Kernel, attributes_of, by_series, data_points

WAIT_S = 120.0
SENT, RETRY = Answer(Outcome.SENT), Answer(Outcome.RETRY, "not now", retry_after_s=0.01)
REFUSED, TOO_LARGE = Answer(Outcome.REFUSED, "UNIMPLEMENTED"), Answer(Outcome.TOO_LARGE, "too large")
SCSI = "qemu.scsi.request.duration"


@dataclass
class Transport:
    """Answers as it is told, and then says yes."""

    answers: list[Answer] = field(default_factory=list)
    most_points: int = 10**9
    hangs: threading.Event = field(default_factory=threading.Event)
    requests: list[ExportMetricsServiceRequest] = field(default_factory=list)
    """Those it said yes to."""
    asked: int = 0
    tries: int = 0
    closed: bool = False

    def send(self, body: bytes) -> Answer:
        """Take a request."""
        self.asked += 1
        while self.hangs.is_set():
            time.sleep(0.005)
        self.tries += 1
        request = ExportMetricsServiceRequest.FromString(body)
        if len(list(data_points(request))) > self.most_points:
            return TOO_LARGE
        answer = self.answers.pop(0) if self.answers else SENT
        if answer.outcome is Outcome.SENT:
            self.requests.append(request)
        return answer

    def close(self) -> None:
        """Let go."""
        self.closed = True


@pytest.fixture
def transport() -> Transport:
    return Transport()


@pytest.fixture
def kernel() -> Kernel:
    kernel = Kernel(DEFAULT_BOUNDS_S)
    kernel.request(READ, 5_000)
    return kernel


@pytest.fixture
def started() -> Iterator[Callable[..., MetricsClient]]:
    """Makes clients, which are closed in the end."""
    made: list[MetricsClient] = []

    def start(
        transport: Transport,
        trace_stats: Callable[[], Stats] | None = None,
        over_rate: Callable[[], int] | None = None,
        **settings: Any,
    ) -> MetricsClient:
        target, asked = Destination(transport, "there"), MetricSettings(**{"interval_s": 1e-3, **settings})
        made.append(MetricsClient(asked, target, trace_stats=trace_stats, over_rate=over_rate))
        return made[-1]

    yield start
    for client in made:
        client.close(1.0)


def measurements(kernel: Kernel, **others: Any) -> Measurements:
    return Measurements(time.time_ns(), time.monotonic_ns(), names(), (kernel.counts(),), **others)


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def wait_for_failures(client: MetricsClient, count: int) -> None:
    wait_until(lambda: client.report.failed == count)


def read_counts(transport: Transport) -> list[int]:
    """Of READ in every request that was taken."""
    found = [by_series(request).get((SCSI, "read ua-ceph-root sda READ")) for request in transport.requests]
    return [point.count for point in found if point]


def test_a_measurement_is_sent(started: Any, transport: Transport, kernel: Kernel) -> None:
    """Once it is due, and what came after that with the next."""
    client = started(transport)
    wait_until(client.is_due)
    client.measure(measurements(kernel))
    wait_until(lambda: read_counts(transport) == [1])
    kernel.request(READ, 5)
    client.measure(measurements(kernel))
    wait_until(lambda: read_counts(transport) == [1, 2])


def test_nothing_is_due_before_its_time(started: Any, transport: Transport) -> None:
    """With the default it is a minute; asked often meanwhile."""
    client = started(transport, interval_s=60.0)
    assert not any(client.is_due() for _ in range(1000))


def test_an_export_is_due_once(started: Any, transport: Transport, kernel: Kernel) -> None:
    """Also while the endpoint hangs: what is measured meanwhile leaves with one request when it answers."""
    transport.hangs.set()
    client = started(transport, interval_s=0.05)
    for _ in range(3):
        wait_until(client.is_due)
        assert not client.is_due()
        client.measure(measurements(kernel))
        kernel.request(READ, 5)
    wait_until(lambda: transport.asked == 1)
    client.measure(measurements(kernel))
    transport.hangs.clear()
    wait_until(lambda: read_counts(transport)[1:] == [4])


def test_guests_that_end_while_the_endpoint_hangs_take_no_room(
    started: Any, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their last counts are kept for the endpoint, so many at most; those that are given up are counted."""
    monkeypatch.setattr(series_totals, "MOST_ENDED", 50)
    transport.hangs.set()
    client = started(transport)
    client.measure(Measurements(time.time_ns(), time.monotonic_ns(), names()))
    wait_until(lambda: transport.asked == 1)
    for pid in range(1, 1001):
        ended = Kernel(DEFAULT_BOUNDS_S, (pid, 1))
        ended.request(READ, 5)
        client.measure(Measurements(time.time_ns(), time.monotonic_ns(), names(), ended=(ended.counts(),)))
        if pid % 100 == 0:
            client.measure(Measurements(time.time_ns(), time.monotonic_ns(), names()))
    series = sum(name.instrument == SCSI for name in client._metrics._totals)
    assert 0 < series <= 50
    assert client._metrics.lost_series > 900
    transport.hangs.clear()
    wait_until(lambda: len(transport.requests) == 2)
    client.measure(Measurements(time.time_ns(), time.monotonic_ns(), names()))
    wait_until(lambda: len(transport.requests) == 3)
    (lost,) = (point.as_int for _, metric, point in data_points(transport.requests[2])
               if metric.name == "otel_qemu.metrics.series.lost")  # fmt: skip
    assert lost == client._metrics.lost_series


@pytest.mark.parametrize("kind", Temporality)
def test_a_failed_export_loses_nothing(started: Any, transport: Transport, kernel: Kernel, kind: Temporality) -> None:
    """Whether refused or out of time: the next carries what was not taken."""
    transport.answers = [REFUSED, Answer(Outcome.RETRY, "not now")]
    client = started(transport, temporality=kind, timeout_s=0.0)
    for failed in (0, 1, 2):
        wait_for_failures(client, failed)
        client.measure(measurements(kernel))
        kernel.request(READ, 7)
    wait_until(lambda: read_counts(transport) == [3])
    assert (client.report.failed, client.report.sent) == (2, 1)
    client.measure(measurements(kernel))
    wait_until(lambda: read_counts(transport) == [3, 1 if kind != Temporality.CUMULATIVE else 4])


def test_it_tries_again_while_there_is_time(started: Any, transport: Transport, kernel: Kernel) -> None:
    """The same bytes, after the time that the endpoint asks for."""
    transport.answers = [RETRY, RETRY]
    client = started(transport)
    client.measure(measurements(kernel))
    wait_until(lambda: read_counts(transport) == [1])
    assert transport.tries == 3
    assert (client.report.failed, client.report.sent) == (2, 1)


def test_an_endpoint_that_asks_for_patience_is_left_alone(started: Any, transport: Transport, kernel: Kernel) -> None:
    """Also by the exports that are due meanwhile, and at the end; that is said."""
    transport.answers = [Answer(Outcome.RETRY, "not now", retry_after_s=1e6)]
    client = started(transport)
    client.measure(measurements(kernel))
    wait_until(lambda: client.report.failed == 1)
    client.measure(measurements(kernel))
    client.measure(measurements(kernel, last=True))
    client.close(WAIT_S)
    assert transport.tries == 1
    assert client.report.summary().endswith("the last export did not arrive")


def test_without_being_asked_to_wait_it_backs_off(
    started: Any, transport: Transport, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the pauses that traces make too, until the time of one export is over; from the shortest after a success."""
    pauses_s: list[float] = []
    transport.answers = [Answer(Outcome.RETRY, "UNAVAILABLE")] * 5
    client = started(transport)
    monkeypatch.setattr(random, "uniform", lambda _least, most: most)

    def pause(pause_s: float, _deadline_s: float) -> bool:
        pauses_s.append(pause_s)
        return len(pauses_s) < 5

    monkeypatch.setattr(client, "_pause", pause)
    client.measure(measurements(kernel))
    wait_until(lambda: client.report.summary().endswith("did not arrive"))
    assert pauses_s == [1, 2, 4, 8, 16]
    assert transport.tries == 5
    client.measure(measurements(kernel))
    wait_until(lambda: client.report.sent == 1)
    assert client._backoff.next_s() == 1


def test_what_is_too_large_is_halved(started: Any, transport: Transport, kernel: Kernel) -> None:
    """Until it is taken; everything arrives, and nothing twice."""
    kernel.request(WRITE, 5, wait_ns=1, completion_ns=1)
    transport.most_points = 3
    client = started(transport)
    client.measure(measurements(kernel))
    client.close(WAIT_S)
    everything = [
        (service, metric.name, tuple(sorted(attributes_of(point).items())))
        for request in transport.requests
        for service, metric, point in data_points(request)
    ]
    assert len(everything) == len(set(everything)) == client.report.sent_points
    assert sum(name == SCSI for _, name, _ in everything) == 2


def test_many_points_are_several_requests(
    started: Any, transport: Transport, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request is bounded from the start; one that fails keeps only its own points back."""
    monkeypatch.setattr(module, "MOST_POINTS", 4)
    transport.answers = [REFUSED]
    client = started(transport, temporality=Temporality.DELTA)
    client.measure(measurements(kernel, counters={"records": 1}))
    wait_until(lambda: client.report.sent > 0)
    client.measure(measurements(kernel, counters={"records": 1}))
    client.close(WAIT_S)
    assert all(len(list(data_points(request))) <= 4 for request in transport.requests)
    assert read_counts(transport) == [1]


def test_an_endpoint_that_is_not_there_is_asked_once(
    started: Any, transport: Transport, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export of many requests does not wait for each in vain; the next has everything."""
    monkeypatch.setattr(module, "MOST_POINTS", 4)
    transport.answers = [Answer(Outcome.RETRY, "UNAVAILABLE")]
    client = started(transport, timeout_s=0.0)
    client.measure(measurements(kernel))
    wait_until(lambda: client.report.failed == 1)
    client.measure(measurements(kernel))
    client.close(WAIT_S)
    assert client.report.failed == 1
    assert read_counts(transport) == [1]


def test_what_is_rejected_is_counted_and_told(
    started: Any, transport: Transport, kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    """A partial success is a success: what the endpoint did not want is not sent again."""
    transport.answers = [Answer(Outcome.SENT, "too old", rejected=2)]
    client = started(transport, temporality=Temporality.DELTA)
    with caplog.at_level(logging.WARNING):
        client.measure(measurements(kernel))
        wait_until(lambda: transport.requests)
        kernel.request(READ, 5)
        client.measure(measurements(kernel))
        wait_until(lambda: read_counts(transport) == [1, 1])
    assert client.report.rejected_points == 2
    assert "there did not want 2 data points: too old" in caplog.text
    rejected = [point.as_int for _, metric, point in data_points(transport.requests[1])
                if metric.name == "otel_qemu.metrics.rejected"]  # fmt: skip
    assert rejected == [2]


def test_failures_are_told_once_in_a_while(
    started: Any, transport: Transport, kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    """With the endpoint, its reason and what can be done."""
    transport.answers = [REFUSED] * 5
    client = started(transport)
    with caplog.at_level(logging.WARNING):
        for failed in range(1, 6):
            client.measure(measurements(kernel))
            wait_for_failures(client, failed)
    (record,) = caplog.records
    assert record.message.startswith("metrics do not arrive: endpoint there: UNIMPLEMENTED")
    assert "OTEL_METRICS_EXPORTER=none" in record.message


def test_a_defect_of_ours_ends_nothing(
    started: Any, transport: Transport, kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told, and the next export is made."""
    client = started(transport)
    broken = replace(measurements(kernel), names=None)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        client.measure(broken)
        client.measure(measurements(kernel))
        wait_until(lambda: read_counts(transport) == [1])
    assert "metrics could not be made, which is a defect: AttributeError" in caplog.text


def test_close_sends_the_last_measurement(started: Any, transport: Transport, kernel: Kernel) -> None:
    """With what became of traces until then; nothing is sent after it, and closing twice is closing once."""
    stats = Stats()
    client = started(transport, trace_stats=lambda: stats, interval_s=60.0)
    client.measure(measurements(kernel, last=True))
    stats = Stats(Tally(3, 2), {**Stats().by_fate, Fate.SENT: Tally(2, 1), Fate.QUEUE_FULL: Tally(1, 1)})
    client.close(WAIT_S)
    client.close(WAIT_S)
    assert read_counts(transport) == [1]
    wait_until(lambda: transport.closed)
    told = {
        (metric.name, *attributes_of(point).values()): point.as_int
        for _, metric, point in data_points(transport.requests[0])
        if metric.name.startswith(("otel_qemu.traces", "otel_qemu.spans"))
    }
    assert told["otel_qemu.spans.sent",] == 2
    assert told["otel_qemu.traces.sent",] == 1
    assert told["otel_qemu.spans.lost", "queue_full"] == 1
    assert told["otel_qemu.spans.queued",] == 0
    assert ("otel_qemu.spans.lost", "disabled") not in told
    client.measure(measurements(kernel))
    assert not client.is_due()
    assert client.report.summary().endswith("data points sent to there")


def test_others_are_asked_by_who_measures(started: Any, transport: Transport, kernel: Kernel) -> None:
    """What the sampler and the client of traces count is of the loop's thread, and is changed by it meanwhile."""
    asked: list[threading.Thread] = []

    def over_rate() -> int:
        asked.append(threading.current_thread())
        return 7

    client = started(transport, over_rate=over_rate)
    client.measure(measurements(kernel))
    client.close(WAIT_S)
    assert asked == [threading.current_thread()]


def test_close_ends_in_time(started: Any, transport: Transport, kernel: Kernel) -> None:
    """An endpoint that never answers, or always asks for patience, delays nobody for longer than was said."""
    for silent in (True, False):
        transport = Transport(answers=[Answer(Outcome.RETRY, "not now", retry_after_s=0.05)] * 10_000)
        if silent:
            transport.hangs.set()
        client = started(transport)
        client.measure(measurements(kernel))
        client.measure(measurements(kernel, last=True))
        began = time.monotonic()
        client.close(0.4)
        assert time.monotonic() - began < 60
        assert client.report.summary().endswith("the last export did not arrive")
        transport.hangs.clear()
