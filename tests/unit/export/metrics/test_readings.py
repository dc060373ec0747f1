# SPDX-License-Identifier: Apache-2.0
"""Metrics say what the kernel has counted: every number, by the right name, since the right moment."""

from typing import Any

import numpy as np
import pytest

from otel_qemu.events import RECORD, RbdOperation
from otel_qemu.export.metrics.export_settings import MetricSettings, Temporality
from otel_qemu.export.metrics.instruments import INSTRUMENTS, InstrumentKind
from otel_qemu.trace.histograms import DEFAULT_BOUNDS_S, in_ns
from otel_qemu.trace.names import Disk, Guest, Names
from tests.support.builders import ALPHA, DEVICE, PID, ROOT, names
from tests.support.metering import (
    CUMULATIVE,
    DELTA,
    INQUIRY,
    READ,
    SECOND_NS,
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
)  # fmt: skip

SCSI, WAIT, COMPLETION = "qemu.scsi.request.duration", "qemu.block.wait.duration", "qemu.block.completion.duration"
RBD, ACTIVE, OLDEST = "ceph.rbd.client.operation.duration", "qemu.scsi.request.active", "qemu.scsi.request.oldest.age"
SDA = "ua-ceph-root sda"
OTHER_DEVICE = DEVICE + 4096
SETTINGS = {each: MetricSettings(temporality=each) for each in Temporality}


@pytest.fixture
def kernel() -> Kernel:
    return Kernel(DEFAULT_BOUNDS_S)


def in_flight(*submits_ns: int, device: int = DEVICE, pid: int = PID) -> Any:
    records = np.zeros(len(submits_ns), RECORD)
    records["pid"], records["device"], records["submit_ns"] = pid, device, submits_ns
    return records


def test_a_write_is_in_each_of_its_metrics(kernel: Kernel) -> None:
    """Duration, wait, completion, call and bytes, with the attributes that tell what it was."""
    kernel.request(WRITE, 412_000, wait_ns=18_000, completion_ns=23_000, size=4096)
    kernel.call(RbdOperation.WRITE, 371_000, size=4096)
    meter = Meter()
    sent = meter.send(meter.measure(kernel))
    of_disk = {"qemu.disk.alias": "ua-ceph-root", "qemu.disk.target": "sda", "disk.io.direction": "write"}
    by_name = {name: point for (name, _), point in sent.items()}
    assert set(by_name) == {
        SCSI, WAIT, COMPLETION, RBD, "qemu.scsi.io", "ceph.rbd.client.io", ACTIVE, OLDEST,
    }  # fmt: skip
    for name, sum_ns in ((SCSI, 412_000), (WAIT, 18_000), (COMPLETION, 23_000), (RBD, 371_000)):
        point = by_name[name]
        assert (point.count, point.sum, sum(point.bucket_counts)) == (1, sum_ns / 1e9, 1)
        assert tuple(point.explicit_bounds) == DEFAULT_BOUNDS_S
        assert list(point.bucket_counts).index(1) == np.searchsorted(in_ns(DEFAULT_BOUNDS_S), sum_ns)
    assert attributes_of(by_name[SCSI]) == {**of_disk, "scsi.operation.name": "WRITE"}
    assert attributes_of(by_name[RBD]) == {
        **of_disk, "ceph.rbd.pool": "rbd", "ceph.rbd.operation.name": "aio_write",
    }  # fmt: skip
    assert by_name["qemu.scsi.io"].as_int == by_name["ceph.rbd.client.io"].as_int == 4096
    assert attributes_of(by_name["qemu.scsi.io"]) == of_disk


def test_failures_are_a_series_of_their_own(kernel: Kernel) -> None:
    """The kernel counts that a request has failed, and not how."""
    kernel.request(READ, 5_000)
    kernel.request(READ, 7_000, failed=True)
    meter = Meter()
    points = [point for (name, _), point in meter.send(meter.measure(kernel)).items() if name == SCSI]
    assert {attributes_of(point).get("error.type"): point.count for point in points} == {None: 1, "_OTHER": 1}


def test_only_reads_and_writes_move_bytes(kernel: Kernel) -> None:
    """UNMAP's parameter list and INQUIRY's answer are no data; failed and good are one sum."""
    kernel.request(UNMAP, 5, size=24)
    kernel.request(INQUIRY, 5, size=96)
    kernel.request(READ, 5, size=512)
    kernel.request(READ, 5, size=512, failed=True)
    kernel.call(RbdOperation.DISCARD, 5, size=65536)
    meter = Meter()
    sent = meter.send(meter.measure(kernel))
    assert {key: point.as_int for key, point in sent.items() if key[0].endswith(".io")} == {
        ("qemu.scsi.io", f"read {SDA}"): 1024
    }


def test_what_is_in_flight_by_disk(kernel: Kernel) -> None:
    """How many, and since when the oldest; a disk without any says 0, and one without a name is counted too."""
    known = names()
    known.devices[PID, OTHER_DEVICE] = Disk("scsi1", "sdb")
    kernel.request(READ, 5)
    kernel.request(READ, 5, device=OTHER_DEVICE)
    meter = Meter()
    flying = np.concatenate((in_flight(58 * SECOND_NS, 59 * SECOND_NS), in_flight(1, device=0x1234)))
    sent = meter.send(meter.measure(kernel, known=known, in_flight=flying))
    assert {key[1]: point.as_int for key, point in sent.items() if key[0] == ACTIVE} == {
        SDA: 2, "scsi1 sdb": 0, "": 1,
    }  # fmt: skip
    assert {key[1]: point.as_double for key, point in sent.items() if key[0] == OLDEST} == {
        SDA: 2.0, "scsi1 sdb": 0.0, "": 59.999999999,
    }  # fmt: skip
    kernel.request(READ, 5)
    assert meter.send(meter.measure(kernel))[ACTIVE, SDA].as_int == 0
    assert (ACTIVE, "") not in meter.send(meter.measure(kernel))


def test_a_disk_without_a_name_has_no_pointer_either(kernel: Kernel) -> None:
    """Nothing of QEMU's memory leaves as an attribute."""
    kernel.request(READ, 5)
    kernel.request(READ, 5, device=OTHER_DEVICE)
    known = Names({PID: ALPHA}, {(PID, DEVICE): Disk(f"0x{DEVICE:x}")})
    meter = Meter()
    sent = meter.send(meter.measure(kernel, known=known))
    assert sent[SCSI, "read READ"].count == 2


@pytest.mark.parametrize("kind", Temporality)
def test_a_clock_that_is_set_back_is_followed(kernel: Kernel, kind: Temporality) -> None:
    """No interval ends before it begins: what was noted goes back with the clock, and is as long ago as it was."""
    meter = Meter(SETTINGS[kind])
    kernel.request(READ, 5)
    meter.send(meter.measure(kernel))
    kernel.request(READ, 5)
    kernel.request(WRITE, 5)
    meter.set_by_ns = -3600 * SECOND_NS
    entries = meter.measure(kernel)
    sent = meter.send(entries)
    start_unix_ns = START_UNIX_NS + meter.set_by_ns
    for name, began_s in ((f"read {SDA} READ", 60 * (kind is not Temporality.CUMULATIVE)), (f"write {SDA} WRITE", 60)):
        point = sent[SCSI, name]
        assert point.start_time_unix_nano == start_unix_ns + began_s * SECOND_NS
        assert point.time_unix_nano == start_unix_ns + 120 * SECOND_NS
    assert {each.point.start_unix_ns < each.point.time_unix_ns for each in entries if each.point} == {True}


def test_series_start_when_nothing_of_them_was_there(kernel: Kernel) -> None:
    """At the start, or at the last measurement that did not have them; and then never again."""
    meter = Meter()
    kernel.request(READ, 5)
    first = meter.send(meter.measure(kernel))
    kernel.request(WRITE, 5)
    second = meter.send(meter.measure(kernel))
    read, write = second[SCSI, f"read {SDA} READ"], second[SCSI, f"write {SDA} WRITE"]
    assert first[SCSI, f"read {SDA} READ"].start_time_unix_nano == read.start_time_unix_nano == START_UNIX_NS
    assert write.start_time_unix_nano == START_UNIX_NS + 60 * SECOND_NS
    assert read.time_unix_nano == write.time_unix_nano == START_UNIX_NS + 120 * SECOND_NS


def test_a_guest_that_ends_is_sent_once_more(kernel: Kernel) -> None:
    """With its very last counts; then never again."""
    meter = Meter()
    kernel.request(READ, 5)
    meter.send(meter.measure(kernel, in_flight=in_flight(1, 2)))
    kernel.request(READ, 5)
    meter.end(kernel)
    last = meter.send(meter.measure(known=Names()))
    assert counts(last, SCSI) == [2]
    assert [point.as_int for key, point in last.items() if key[0] == ACTIVE] == [0]
    assert meter.send(meter.measure(known=Names())) == {}


def test_what_could_not_be_sent_of_a_guest_that_ended_is_kept(kernel: Kernel) -> None:
    """Until it arrives."""
    meter = Meter()
    kernel.request(READ, 5)
    meter.end(kernel)
    for _ in range(3):
        assert counts(by_series(otlp(meter.measure(known=Names()))), SCSI) == [1]
    meter.send(meter.measure(known=Names()))
    assert meter.send(meter.measure(known=Names())) == {}


def test_a_process_id_that_is_used_again_is_another_process(kernel: Kernel) -> None:
    """Its counts begin anew, in another resource, and the first one's are not touched."""
    meter = Meter()
    for _ in range(3):
        kernel.request(READ, 5)
    meter.send(meter.measure(kernel))
    meter.end(kernel)
    again = Kernel(DEFAULT_BOUNDS_S, (PID, 2))
    again.request(READ, 5)
    beta = Names({PID: Guest(PID, ALPHA.executable, "beta-uuid", "beta")}, {(PID, DEVICE): ROOT})
    request = otlp(meter.measure(again, known=beta))
    found = {}
    for resource in request.resource_metrics:
        domain = {each.key: each.value.string_value for each in resource.resource.attributes}.get("qemu.domain.name")
        for metric in resource.scope_metrics[0].metrics:
            if metric.name == SCSI:
                (point,) = metric.histogram.data_points
                found[domain] = (point.count, point.start_time_unix_nano)
    assert found == {"alpha": (3, START_UNIX_NS), "beta": (1, START_UNIX_NS + 60 * SECOND_NS)}


def test_a_disk_that_is_unplugged_ends(kernel: Kernel) -> None:
    """Its entries stay in the kernel, and are nobody's; another disk at the same address has its own counts."""
    meter = Meter()
    kernel.request(READ, 5)
    meter.send(meter.measure(kernel))
    # Its name is read out of freed memory then, and libvirt does not know it: so it has no target.
    gone = Names({PID: ALPHA}, {(PID, DEVICE): Disk(ROOT.alias)})
    assert counts(meter.send(meter.measure(kernel, known=gone)), SCSI) == [1]
    assert meter.send(meter.measure(kernel, known=gone)) == {}
    kernel.request(READ, 7)
    other = Names({PID: ALPHA}, {(PID, DEVICE): Disk("scsi9", "sdz")})
    sent = meter.send(meter.measure(kernel, known=other))
    (key,) = (key for key in sent if key[0] == SCSI)
    assert key[1] == "read scsi9 sdz READ"
    assert (sent[key].count, sent[key].sum) == (1, 7e-9)


def test_two_disks_of_one_name_are_one_series(kernel: Kernel) -> None:
    """Unplugged and plugged in again under its name, at another address: counts go on."""
    known = names()
    meter = Meter()
    kernel.request(READ, 5)
    meter.send(meter.measure(kernel))
    known.devices[PID, OTHER_DEVICE] = ROOT
    kernel.request(READ, 5, device=OTHER_DEVICE)
    assert counts(meter.send(meter.measure(kernel, known=known)), SCSI) == [2]


def test_delta_sends_what_is_new(kernel: Kernel) -> None:
    """And nothing where nothing is; levels are levels in any temporality."""
    meter = Meter(SETTINGS[Temporality.DELTA])
    kernel.request(READ, 5)
    request = otlp(meter.measure(kernel))
    kinds = {metric.name: temporality(metric) for _, metric, _ in data_points(request)}
    for name, kind in kinds.items():
        wanted = {
            InstrumentKind.HISTOGRAM: DELTA,
            InstrumentKind.COUNTER: DELTA,
            InstrumentKind.UP_DOWN_COUNTER: CUMULATIVE,
            InstrumentKind.GAUGE: None,
        }
        assert kind == wanted[INSTRUMENTS[name].kind], name
    meter.send(meter.readings.entries(meter.readings.points(), {}))
    assert {key[0] for key in meter.send(meter.measure(kernel))} == {ACTIVE, OLDEST}
    kernel.request(READ, 9)
    third = meter.send(meter.measure(kernel))
    point = next(point for key, point in third.items() if key[0] == SCSI)
    assert (point.count, point.sum) == (1, 9e-9)
    assert point.start_time_unix_nano == START_UNIX_NS + 60 * SECOND_NS
    assert point.time_unix_nano == START_UNIX_NS + 180 * SECOND_NS


def test_lowmemory_is_delta_for_histograms_only(kernel: Kernel) -> None:
    """Counters that are read in the kernel are observed, as OpenTelemetry calls it."""
    kernel.request(READ, 5)
    meter = Meter(SETTINGS[Temporality.LOWMEMORY])
    kinds = {metric.name: temporality(metric) for _, metric, _ in data_points(otlp(meter.measure(kernel)))}
    for name, kind in kinds.items():
        wanted = {InstrumentKind.HISTOGRAM: DELTA, InstrumentKind.GAUGE: None}
        assert kind == wanted.get(INSTRUMENTS[name].kind, CUMULATIVE), name


def test_every_metric_is_as_it_is_registered(kernel: Kernel) -> None:
    """Name, unit, kind, and no attribute that is not listed: so no address, offset or process id."""
    kernel.request(WRITE, 5, wait_ns=1, completion_ns=1, failed=True)
    kernel.call(RbdOperation.WRITE, 5, failed=True)
    meter = Meter()
    points = meter.measure(kernel, in_flight=in_flight(1), counters={"records": 3, "scsi_table_full": 4})
    shapes = {InstrumentKind.HISTOGRAM: "histogram", InstrumentKind.GAUGE: "gauge"}
    seen = set()
    for _, metric, point in data_points(otlp(points)):
        instrument = INSTRUMENTS[metric.name]
        seen.add(metric.name)
        assert (metric.unit, metric.description) == (instrument.unit, instrument.description)
        assert metric.WhichOneof("data") == shapes.get(instrument.kind, "sum")
        assert set(attributes_of(point)) <= set(instrument.attributes)
        if metric.HasField("sum"):
            assert metric.sum.is_monotonic == (instrument.kind is InstrumentKind.COUNTER)
    ours = {name for name in INSTRUMENTS if name.startswith(("otel_qemu.traces", "otel_qemu.spans", "otel_qemu.metr"))}
    assert seen == set(INSTRUMENTS) - ours


def test_losses_are_apart_from_other_events() -> None:
    """A counter of the kernel is in one of the two metrics."""
    meter = Meter()
    points = meter.measure(counters={"records": 3, "ring_full_request": 4})
    found = {
        metric.name: {attributes_of(each)["otel_qemu.bpf.event"]: each.as_int for each in metric.sum.data_points}
        for _, metric, _ in data_points(otlp(points))
        if metric.name.startswith("otel_qemu.bpf")
    }
    assert found == {
        "otel_qemu.bpf.events": {"records": 3}, "otel_qemu.bpf.events.lost": {"ring_full_request": 4},
    }  # fmt: skip


def test_we_are_a_service_of_our_own() -> None:
    """On the same host, under our name, the same after a restart."""
    meter = Meter()
    (resource,) = otlp(meter.measure()).resource_metrics
    values = {each.key: each.value for each in resource.resource.attributes}
    assert values["service.name"].string_value == "otel-qemu"
    host = values["host.id"] if "host.id" in values else values["host.name"]
    assert values["service.instance.id"] == host
    assert "qemu.domain.uuid" not in values


def counts(sent: dict[tuple[str, str], Any], metric: str) -> list[int]:
    """Of each series of a metric."""
    return [point.count for key, point in sent.items() if key[0] == metric]


def test_ended_series_are_bounded() -> None:
    """An endpoint that is not there for long costs the oldest of them, and that is counted."""
    meter = Meter(most_ended=6)
    for start in range(1, 6):
        kernel = Kernel(DEFAULT_BOUNDS_S, (PID + start, start))
        kernel.request(INQUIRY, 5)
        meter.end(kernel, Names())
    meter.measure(known=Names())
    assert meter.readings.totals.lost == 0
    for start in range(6, 9):
        kernel = Kernel(DEFAULT_BOUNDS_S, (PID + start, start))
        kernel.request(INQUIRY, 5)
        meter.end(kernel, Names())
    entries = meter.measure(known=Names())
    assert meter.readings.totals.lost == 2
    assert len([entry for entry in entries if entry.metric.name == SCSI]) == 6
