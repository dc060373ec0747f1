# SPDX-License-Identifier: Apache-2.0
"""Metrics as a real Prometheus gives them back: what stands there is what `hist --json` prints of the same run."""

import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from otel_qemu.export.metrics.client import MetricsClient
from otel_qemu.policy import COUNTS_ONLY
from otel_qemu.service import Service
from otel_qemu.views.json_lines import histogram_line
from tests.backends.jaeger import wait_for
from tests.backends.prometheus import Prometheus
from tests.children import join
from tests.kernel.commands import COMMANDS, total
from tests.kernel.fake_qemu import DEVICE_ALIAS, FakeQemu
from tests.kernel.tracing import Those

pytestmark = pytest.mark.usefixtures("metrics_variables")

WAIT_S = 120.0
NAMES = {
    "scsi": ("qemu_scsi_request_duration_seconds", "scsi_operation_name"),
    "wait": ("qemu_block_wait_duration_seconds", "scsi_operation_name"),
    "rbd": ("ceph_rbd_client_operation_duration_seconds", "ceph_rbd_operation_name"),
}
Rows = dict[tuple[str, str | None, str], tuple[int, float, dict[float, int]]]
"""Count, sum in s and cumulative counts by upper bound, of each layer, disk and operation."""


@contextlib.contextmanager
def running(qemu: FakeQemu) -> Iterator[Service]:
    """The service with the metrics that the environment asks for, which have arrived when it is left."""
    ready = threading.Event()
    with closing(MetricsClient.from_environment()) as client:
        service = Service(Those(qemu), [], policy=COUNTS_ONLY, bounds_s=client.settings.bounds_s, meters=[client])
        thread = threading.Thread(
            target=service.run, kwargs={"duration_s": 120, "ready": lambda *_: ready.set()}, daemon=True
        )
        thread.start()
        try:
            assert ready.wait(WAIT_S)
            yield service
        finally:
            service.stop()
            join(thread)
    assert "did not arrive" not in client.report.summary()


def stored(prometheus: Prometheus, pid: int) -> Rows:
    """A guest's histograms, failed and good ones added up."""
    rows: Rows = {}
    for layer, (metric, label) in NAMES.items():
        by = f"sum by (qemu_disk_alias, {label}"
        of = f'{{process_pid="{pid}"}}'
        sums = {key(labels, label): value for labels, value in prometheus.query(f"{by}) ({metric}_sum{of})")}
        counts = {key(labels, label): value for labels, value in prometheus.query(f"{by}) ({metric}_count{of})")}
        assert sums.keys() == counts.keys()
        for (disk, operation), count in counts.items():
            rows[layer, disk, operation] = (int(count), sums[disk, operation], {})
        for labels, value in prometheus.query(f"{by}, le) ({metric}_bucket{of})"):
            disk, operation = key(labels, label)
            rows[layer, disk, operation][2][float(labels["le"])] = int(value)
    return rows


def key(labels: dict[str, str], label: str) -> tuple[str | None, str]:
    return labels.get("qemu_disk_alias"), labels[label].removeprefix("aio_")


def printed(service: Service) -> Rows:
    """The same of what `hist --json` prints."""
    rows: Rows = {}
    for line in map(histogram_line, service.histograms.rows(service.names)):
        below, bounds = 0, {}
        for bound, count in zip((*line["bounds_s"], float("inf")), line["counts"], strict=True):
            below += count
            bounds[bound] = below
        rows[line["layer"], line["disk"], line["operation"]] = (line["count"], line["sum_s"], bounds)
    return rows


def counts(rows: Rows) -> dict[tuple[str, str], int]:
    """By layer and operation, of all disks."""
    found: dict[tuple[str, str], int] = {}
    for (layer, _, operation), (count, _, _) in rows.items():
        found[layer, operation] = found.get((layer, operation), 0) + count
    return found


def test_histograms_are_those_that_hist_prints(prometheus: Prometheus, qemu: FakeQemu) -> None:
    """Every count, every bucket, every sum; and both are what was fired."""
    with running(qemu) as service:
        for command in COMMANDS:
            qemu.command(command)
    found, wanted = stored(prometheus, qemu.pid), printed(service)
    assert counts(wanted) == total(COMMANDS)
    assert {key: (count, buckets) for key, (count, _, buckets) in found.items()} == {
        key: (count, buckets) for key, (count, _, buckets) in wanted.items()
    }
    for each, (_, sum_s, _) in wanted.items():
        assert found[each][1] == pytest.approx(sum_s, rel=1e-12), each  # failed and good are added up there as floats


def test_deltas_are_the_same(prometheus: Prometheus, qemu: FakeQemu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put together again by Prometheus itself."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")
    with running(qemu) as service:
        for command in COMMANDS:
            qemu.command(command)
            time.sleep(0.2)  # so that they come in several pieces; how many does not matter
    found, wanted = stored(prometheus, qemu.pid), printed(service)
    assert {key: (count, buckets) for key, (count, _, buckets) in found.items()} == {
        key: (count, buckets) for key, (count, _, buckets) in wanted.items()
    }
    for each, (_, sum_s, _) in wanted.items():
        assert found[each][1] == pytest.approx(sum_s, rel=1e-9), each


def test_exponential_histograms_are_native_ones(
    prometheus: Prometheus, qemu: FakeQemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Count, sum, and how many took no longer than each power of two: what the kernel counted with those bounds."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "base2_exponential_bucket_histogram")
    with running(qemu) as service:
        qemu.command("read 211 4096 16")
        qemu.command("write 101 5120")
    wanted = printed(service)
    assert counts(wanted)["scsi", "READ"] == 211
    for (layer, _, operation), (count, sum_s, bounds) in wanted.items():
        metric, label = NAMES[layer]
        name = operation if layer != "rbd" else f"aio_{operation}"
        series = f'{metric}{{process_pid="{qemu.pid}", {label}="{name}"}}'
        assert value(prometheus, f"histogram_count({series})") == count
        assert value(prometheus, f"histogram_sum({series})") == pytest.approx(sum_s, rel=1e-12)
        for exponent in range(-18, 13):
            bound_s = next(each for each in bounds if each == pytest.approx(2.0**exponent, rel=1e-3))
            fraction = value(prometheus, f"histogram_fraction(-1, {2.0**exponent!r}, {series})")
            assert fraction * count == pytest.approx(bounds[bound_s], abs=1e-6)


def test_bytes_levels_and_ourselves(prometheus: Prometheus, qemu: FakeQemu) -> None:
    """Counters with their units, requests in flight while they are, and what we say about ourselves."""
    of = f'{{process_pid="{qemu.pid}"}}'
    with running(qemu):
        qemu.command("read 211 4096 16")
        qemu.command("write 101 5120")
        qemu.command("hold")
        qemu.command("read 7 4096")
        labels, _ = wait_for(
            lambda: next((row for row in prometheus.query(f"qemu_scsi_request_active{of}") if row[1] == 7), None),
            WAIT_S, "seven requests in flight",
        ) or ({}, 0)  # fmt: skip
        assert labels["qemu_disk_alias"] == DEVICE_ALIAS
        assert value(prometheus, f"qemu_scsi_request_oldest_age_seconds{of}") > 0
        qemu.command("release-held")
    assert value(prometheus, f"qemu_scsi_request_active{of}") == 0
    assert value(prometheus, f"qemu_scsi_request_oldest_age_seconds{of}") == 0
    for metric in ("qemu_scsi_io_bytes_total", "ceph_rbd_client_io_bytes_total"):
        found = {labels["disk_io_direction"]: count for labels, count in prometheus.query(f"{metric}{of}")}
        assert found == {"read": 218 * 4096, "write": 101 * 5120}
    submitted = 'otel_qemu_bpf_events_total{job="otel-qemu", otel_qemu_bpf_event="scsi_submitted"}'
    assert value(prometheus, submitted) == 211 + 101 + 7
    assert value(prometheus, 'process_cpu_time_seconds_total{job="otel-qemu", cpu_mode="user"}') > 0
    assert value(prometheus, 'process_memory_usage_bytes{job="otel-qemu"}') > 1e6


def value(prometheus: Prometheus, query: str) -> float:
    """Of the one series that a query gives."""
    ((_, found),) = prometheus.query(query)
    return found
