# SPDX-License-Identifier: Apache-2.0
"""Whatever happened, and whatever arrived: the numbers that a store has are those that the kernel has."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_qemu.events import RbdOperation
from otel_qemu.export.metrics.export_settings import MetricSettings, Temporality
from otel_qemu.trace.histograms import DEFAULT_BOUNDS_S, Histograms, in_ns
from otel_qemu.trace.kernel_histograms import histograms_of
from otel_qemu.trace.names import Disk, Names
from tests.support.builders import DEVICE, PID, names
from tests.support.metering import (
    DELTA,
    READ,
    START_UNIX_NS,
    UNMAP,
    WRITE,
    Kernel,
    Meter,
    attributes_of,
    by_series,
    data_points,
    otlp,
    temporality,
)

SCSI, WAIT = "qemu.scsi.request.duration", "qemu.block.wait.duration"
RBD, ACTIVE, OLDEST = "ceph.rbd.client.operation.duration", "qemu.scsi.request.active", "qemu.scsi.request.oldest.age"
OTHER_DEVICE = DEVICE + 4096

_NS = st.one_of(st.integers(1, 2**36), st.sampled_from(in_ns(DEFAULT_BOUNDS_S).tolist()))
_REQUEST = st.tuples(
    st.just("request"), st.sampled_from([0x08, READ, WRITE, UNMAP]), st.sampled_from([DEVICE, OTHER_DEVICE]),
    st.booleans(), _NS,
)  # fmt: skip
_CALL = st.tuples(
    st.just("call"), st.sampled_from(RbdOperation), st.sampled_from([DEVICE, OTHER_DEVICE, 0]), st.booleans(), _NS
)
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""On a busy machine, the SDK's collection of a few exports takes longer than hypothesis has patience for."""
_STEPS = st.lists(st.tuples(st.lists(st.one_of(_REQUEST, _CALL), max_size=8), st.booleans()), max_size=6)


def count(kernel: Kernel, happened: Iterable[Any]) -> None:
    for what, operation, device, failed, value_ns in happened:
        if what == "call":
            kernel.call(operation, value_ns, device=device, failed=failed)
        else:
            kernel.request(operation, value_ns, device=device, failed=failed, wait_ns=value_ns // 2, completion_ns=1)


def both_disks() -> Names:
    known = names()
    known.devices[PID, OTHER_DEVICE] = Disk("scsi1", "sdb", "rbd", "data")
    return known


def tallied(point: Any) -> Any:
    """What of a data point can be added up: of a histogram in whole ns."""
    if hasattr(point, "bucket_counts"):
        return np.array([round(point.sum * 1e9), *point.bucket_counts])
    return np.array([point.as_int])


@PATIENT
@given(_STEPS)
def test_cumulative_is_what_the_kernel_has_counted(steps: list[Any]) -> None:
    """At every export, arrived or not: the same counts and sums as `hist` has, failed and good together."""
    kernel, meter = Kernel(DEFAULT_BOUNDS_S), Meter()
    for happened, arrives in steps:
        count(kernel, happened)
        points = meter.measure(kernel, known=both_disks())
        sent = by_series(otlp(points))
        if arrives:
            meter.readings.deliver(points)
        assert added_up(sent) == from_kernel(kernel)


def added_up(sent: dict[tuple[str, str], Any]) -> dict[tuple[str, str, str], Any]:
    """Counts and sum by layer, disk and operation."""
    layers = {SCSI: "scsi", WAIT: "wait", RBD: "rbd"}
    found: dict[tuple[str, str, str], Any] = {}
    for (metric, _), point in sent.items():
        if metric in layers:
            values = attributes_of(point)
            operation = values.get("scsi.operation.name") or values["ceph.rbd.operation.name"].removeprefix("aio_")
            key = (layers[metric], values.get("qemu.disk.alias", ""), operation)
            found[key] = found.get(key, 0) + tallied(point)
    return {key: tuple(value.tolist()) for key, value in found.items()}


def from_kernel(kernel: Kernel) -> dict[tuple[str, str, str], Any]:
    """The same from `Histograms`, which `hist --json` prints."""
    counted: Histograms = histograms_of(kernel.counts().series, kernel.counts().latencies, DEFAULT_BOUNDS_S)
    return {
        (row.layer, row.disk or "", row.operation): (round(row.sum_s * 1e9), *row.counts)
        for row in counted.rows(both_disks())
    }


@PATIENT
@given(_STEPS, st.sampled_from(Temporality))
def test_a_store_that_misses_exports_has_everything_in_the_end(steps: list[Any], kind: Temporality) -> None:
    """Deltas that arrive add up to what is counted, intervals do not overlap, and nothing ever decreases."""
    kernel, meter = Kernel(DEFAULT_BOUNDS_S), Meter(MetricSettings(temporality=kind))
    stored: dict[tuple[str, str], Any] = {}
    until: dict[tuple[str, str], int] = {}
    for happened, arrives in [*steps, ([], True)]:
        count(kernel, happened)
        points = meter.measure(kernel, known=both_disks())
        if not arrives:
            continue
        request = otlp(points)
        meter.readings.deliver(points)
        is_delta = {metric.name: temporality(metric) == DELTA for _, metric, _ in data_points(request)}
        for key, point in by_series(request).items():
            if key[0] in (ACTIVE, OLDEST):
                continue
            assert point.start_time_unix_nano < point.time_unix_nano
            if is_delta[key[0]]:
                assert point.start_time_unix_nano >= until.get(key, START_UNIX_NS)
                stored[key] = stored.get(key, 0) + tallied(point)
            else:
                assert (tallied(point) >= stored.get(key, 0)).all()
                stored[key] = tallied(point)
            until[key] = point.time_unix_nano
    whole = Meter()
    expected = {key: tallied(point) for key, point in whole.send(whole.measure(kernel, known=both_disks())).items()
                if key[0] not in (ACTIVE, OLDEST)}  # fmt: skip
    assert stored.keys() == expected.keys()
    for key, value in expected.items():
        assert (stored[key] == value).all(), key
