# SPDX-License-Identifier: Apache-2.0
"""
Metrics that the service sends equal a fake QEMU's own figures: counts, bytes, and requests in flight with their age.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk.metrics.export import MetricExportResult

from otel_qemu.events import Layer
from otel_qemu.export.metrics.client import MetricsClient
from otel_qemu.export.metrics.export_settings import MetricSettings, Temporality
from otel_qemu.policy import COUNTS_ONLY
from otel_qemu.service import Intervals, Service
from otel_qemu.trace.measurements import ProcessCounts, Snapshot
from otel_qemu.trace.names import Names
from tests.children import join
from tests.kernel.commands import COMMANDS, total
from tests.kernel.fake.build import QEMU_11_1
from tests.kernel.fake_qemu import DEVICE_ALIAS, FakeQemu
from tests.kernel.tracing import Those, Tracing
from tests.support.metering import ImitatedExporter, attributes_of, data_points

WAIT_S = 120.0
LAYERS = {"qemu.scsi.request.duration": "scsi", "qemu.block.wait.duration": "wait",
          "ceph.rbd.client.operation.duration": "rbd"}  # fmt: skip
ACTIVE, OLDEST = "qemu.scsi.request.active", "qemu.scsi.request.oldest.age"
Found = dict[tuple[str, int], list[tuple[dict[str, str], Any]]]


class Store(ImitatedExporter):
    """An endpoint that takes every request, and keeps the newest."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Found] = []

    def take(self, request: ExportMetricsServiceRequest) -> MetricExportResult:
        """Take one."""
        found: Found = {}
        for resource in request.resource_metrics:
            pid = next(each.value.int_value for each in resource.resource.attributes if each.key == "process.pid")
            part = ExportMetricsServiceRequest(resource_metrics=[resource])
            for _, metric, point in data_points(part):
                found.setdefault((metric.name, pid), []).append((attributes_of(point), point))
        assert request.resource_metrics
        self.requests.append(found)
        return MetricExportResult.SUCCESS

    def of(self, metric: str, pid: int) -> list[tuple[dict[str, str], Any]]:
        """Attributes and data points of a guest's metric, as they came last."""
        return self.requests[-1].get((metric, pid), []) if self.requests else []


@contextmanager
def exporting(selection: Those, **settings: Any) -> Iterator[Store]:
    """Run the service with a store that gets metrics ten times a second."""
    store, ready = Store(), threading.Event()
    client = MetricsClient(MetricSettings(interval_s=0.1, **settings), store, "store")
    service = Service(selection, [], policy=COUNTS_ONLY, bounds_s=client.settings.bounds_s, meters=[client])
    thread = threading.Thread(
        target=service.run, kwargs={"duration_s": 120, "ready": lambda *_: ready.set()}, daemon=True
    )
    thread.start()
    try:
        assert ready.wait(WAIT_S)
        yield store
    finally:
        service.stop()
        join(thread)
        client.close()


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def counts(store: Store, pid: int) -> dict[tuple[str, str], int]:
    """Return counts by layer and operation, failed and good together."""
    found: dict[tuple[str, str], int] = {}
    for metric, layer in LAYERS.items():
        for values, point in store.of(metric, pid):
            operation = values.get("scsi.operation.name") or values["ceph.rbd.operation.name"].removeprefix("aio_")
            found[layer, operation] = found.get((layer, operation), 0) + point.count
    return found


def levels(store: Store, pid: int) -> tuple[int, float] | None:
    """Return the requests in flight of the one disk, and the age of the oldest in s."""
    active, oldest = store.of(ACTIVE, pid), store.of(OLDEST, pid)
    if not active:
        return None
    ((values, count),), ((_, age),) = active, oldest
    assert values == {"qemu.disk.alias": DEVICE_ALIAS}
    return count.as_int, age.as_double


@pytest.fixture(scope="module")
def qemu() -> Iterator[FakeQemu]:
    with FakeQemu() as qemu:
        yield qemu


@pytest.mark.parametrize("exponential", [False, True], ids=["explicit", "exponential"])
def test_every_request_and_byte_arrives(qemu: FakeQemu, exponential: bool) -> None:
    """After each command the metrics equal its requests and bytes, with errors apart."""
    with exporting(Those(qemu), exponential=exponential) as store:
        for command in COMMANDS:
            qemu.command(command)
        wait_until(lambda: counts(store, qemu.pid) == total(COMMANDS))
        failed = {
            values["scsi.operation.name"]: point.count
            for values, point in store.of("qemu.scsi.request.duration", qemu.pid)
            if "error.type" in values
        }
        assert failed == {"READ": 11 + 7}  # CHECK CONDITION and cancelled
        for metric in ("qemu.scsi.io", "ceph.rbd.client.io"):
            bytes_by_direction = {
                values["disk.io.direction"]: point.as_int
                for values, point in store.of(metric, qemu.pid)
                if values.get("qemu.disk.alias")
            }
            assert bytes_by_direction == {
                "read": (211 + 11 + 7) * 4096,
                "write": 101 * 5120 + 23 * 4096,
            }
        of_jobs = [point for values, point in store.of("ceph.rbd.client.io", qemu.pid) if len(values) == 1]
        assert [point.as_int for point in of_jobs] == [5 * 65536]


def test_what_is_in_flight_and_for_how_long(qemu: FakeQemu) -> None:
    """Both are sent while Ceph completes nothing, and are zero afterwards."""
    with exporting(Those(qemu)) as store:
        qemu.command("read 3 4096")
        wait_until(lambda: levels(store, qemu.pid) == (0, 0.0))
        before = time.monotonic()
        qemu.command("hold")
        qemu.command("read 7 4096")
        held = time.monotonic()
        wait_until(lambda: (levels(store, qemu.pid) or (0, 0))[0] == 7)
        _, age_s = levels(store, qemu.pid) or (0, 0.0)
        assert 0 < age_s < time.monotonic() - before
        wait_until(lambda: (levels(store, qemu.pid) or (0, 0))[1] > age_s + 0.5)
        assert time.monotonic() - held > 0.5
        qemu.command("release-held")
        wait_until(lambda: levels(store, qemu.pid) == (0, 0.0))
        assert counts(store, qemu.pid)["scsi", "READ"] == 10


def test_a_guest_that_is_killed_is_reported_to_its_end(qemu: FakeQemu) -> None:
    """Its last counts arrive after it has ended, with nothing in flight; later only the other guest is sent."""
    with FakeQemu(QEMU_11_1) as other, exporting(Those(qemu, other)) as store:
        qemu.command("read 3 4096")
        other.command("write 101 4096")
        other.command("hold")
        other.command("write 11 4096")
        wait_until(lambda: (levels(store, other.pid) or (0, 0))[0] == 11)
        other.kill()
        duration = ("qemu.scsi.request.duration", other.pid)
        wait_until(lambda: duration not in store.requests[-1])
        last = [request for request in store.requests if duration in request][-1]
        ((_, point),) = last[duration]
        assert point.count == 101
        assert [point.as_int for _, point in last[ACTIVE, other.pid]] == [0]
        wait_until(lambda: not any(pid == other.pid for _, pid in store.requests[-1]))
        assert counts(store, qemu.pid)["scsi", "READ"] == 3


def test_delta_adds_up(qemu: FakeQemu) -> None:
    """The increments that arrive add up to the requests that were made."""
    with exporting(Those(qemu), temporality=Temporality.DELTA) as store:
        for _ in range(5):
            qemu.command("read 211 4096 16")
            time.sleep(0.15)  # so that there are several pieces; how many does not matter

        def arrived() -> int:
            key = ("qemu.scsi.request.duration", qemu.pid)
            return sum(point.count for request in store.requests for _, point in request.get(key, []))

        wait_until(lambda: arrived() == 5 * 211)


def test_a_tracer_gives_what_ended_processes_counted(qemu: FakeQemu) -> None:
    """It gives them once, with their identity; with those that go on they are all requests."""
    with FakeQemu(QEMU_11_1) as other, Tracing(qemu, other, policy=COUNTS_ONLY) as tracing:
        other.command("write 101 4096")
        qemu.command("read 23 4096")
        assert tracing.tracer.probes > 0
        assert {each.identity[0] for each in tracing.tracer.counts()} == {qemu.pid, other.pid}
        other.kill()
        (gone,) = tracing.tracer.refresh()
        assert gone.identity[0] == other.pid
        assert [each.identity[0] for each in tracing.tracer.counts()] == [qemu.pid]
        assert int(gone.latencies["duration"]["counts"][gone.series["layer"] == Layer.SCSI].sum()) == 101
        assert tracing.tracer.refresh() == []


class Patient:
    """A meter that is never due."""

    def __init__(self) -> None:
        self.ended = 0

    def is_due(self) -> bool:
        return False

    def measure(self, _snapshot: Snapshot) -> None:
        """Take the last one."""

    def depart(self, processes: Sequence[ProcessCounts], _names: Names) -> None:
        """Count guests that have ended."""
        self.ended += len(processes)


def test_nothing_is_kept_of_guests_that_have_ended() -> None:
    """Once their last traces and counts have been sent, names and histograms are gone."""
    meter, ready = Patient(), threading.Event()
    with FakeQemu() as staying, FakeQemu() as leaving:
        intervals = Intervals(remember_s=0.0)
        service = Service(Those(staying, leaving), [], policy=COUNTS_ONLY, meters=[meter], intervals=intervals)
        run = threading.Thread(
            target=service.run, kwargs={"duration_s": 120, "ready": lambda *_: ready.set()}, daemon=True
        )
        run.start()
        assert ready.wait(WAIT_S)
        for qemu in (staying, leaving):
            qemu.command("read 5 4096")
        leaving.kill()
        wait_until(lambda: leaving.pid not in service.names.guests)
        service.stop()
        join(run)
    assert (meter.ended, set(service.names.guests), set(service.traced)) == (1, {staying.pid}, {staying.pid})
    assert {row.pid for row in service.histograms.rows(Names())} == {staying.pid}
