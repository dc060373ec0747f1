# SPDX-License-Identifier: Apache-2.0
"""A real guest's metrics, as Prometheus gives them back, beside what `hist --json` counted of the same requests."""

import json
import os
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.backends.jaeger import wait_for
from tests.backends.prometheus import Prometheus
from tests.lab.disk import Disk
from tests.lab.guest import Guest
from tests.lab.lab import Lab
from tests.lab.tracing import Tracing
from tests.lab.workload import Workload

pytestmark = pytest.mark.usefixtures("metrics_variables")

DISK = Disk("measured")
WRITES, READS, FLUSHES, DISCARDS = 53, 31, 5, 3
WAIT_S = 120.0
INTERVAL_S = 0.5  # OTEL_METRIC_EXPORT_INTERVAL of `metrics_variables`
NAMES = {
    "scsi": ("qemu_scsi_request_duration_seconds_count", "scsi_operation_name"),
    "wait": ("qemu_block_wait_duration_seconds_count", "scsi_operation_name"),
    "rbd": ("ceph_rbd_client_operation_duration_seconds_count", "ceph_rbd_operation_name"),
}


@pytest.fixture(scope="module")
def guest(lab: Lab) -> Iterator[Guest]:
    guest = lab.guest("measured", disks=[DISK])
    yield guest
    guest.destroy()


def test_a_guest_is_measured_as_it_is_counted(
    prometheus: Prometheus, guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By disk, layer and operation, whatever traces are kept; and reads and writes are those that the guest did."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    workload = Workload.mixed(7, DISK.size_bytes, WRITES, READS, FLUSHES, DISCARDS, sizes=(4096, 65536))
    with (
        Tracing("run", "--domain", guest.name, "--one-in", "0", env=dict(os.environ)) as run,
        Tracing("hist", "--json", "--domain", guest.name) as hist,
    ):
        workload.run(guest, guest.device(DISK))
        assert hist.stop() == 0
        assert run.stop() == 0
    assert "did not arrive" not in run.stderr
    counted = Counter(
        {
            (line["disk"], line["layer"], line["operation"]): line["count"]
            for line in map(json.loads, hist.stdout.splitlines())
        }
    )
    assert stored(prometheus, guest.name) == counted
    by_operation = {operation: count for (_, layer, operation), count in counted.items() if layer == "scsi"}
    assert (by_operation["WRITE"], by_operation["READ"]) == (WRITES, READS)
    for direction, operation in (("write", "write"), ("read", "read")):
        query = f'sum(qemu_scsi_io_bytes_total{{qemu_domain_name="{guest.name}", disk_io_direction="{direction}"}})'
        ((_, size),) = prometheus.query(query)
        assert size == sum(each.length for each in workload.requests if each.operation == operation)


def stored(prometheus: Prometheus, domain: str) -> Counter[tuple[str | None, str, str]]:
    """Counts by disk, layer and operation, failed and good together."""
    found: Counter[tuple[str | None, str, str]] = Counter()
    for layer, (metric, label) in NAMES.items():
        for labels, count in prometheus.query(f'{metric}{{qemu_domain_name="{domain}"}}'):
            found[labels.get("qemu_disk_alias"), layer, labels[label].removeprefix("aio_")] += int(count)
    return found


def test_a_disk_that_is_unplugged_ends(prometheus: Prometheus, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its series stop with all that was counted, while those of the other disk go on."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    kept, gone = Disk("kept"), Disk("gone")
    guest = lab.guest("unplugged", disks=[kept, gone])
    with Tracing("run", "--domain", guest.name, "--one-in", "0", env=dict(os.environ)) as run:
        for disk in (kept, gone):
            guest.run(f"dd if=/dev/{guest.device(disk)} of=/dev/null bs=4k count=23 iflag=direct")
        wait_for(lambda: reads(prometheus, guest, "") == {kept.alias: 23, gone.alias: 23}, WAIT_S, "both disks' reads")
        guest.qmp({"execute": "device_del", "arguments": {"id": gone.alias}})

        def is_over() -> bool:
            last = reads(prometheus, guest, "timestamp")
            return last[kept.alias] > last[gone.alias] + 5 * INTERVAL_S

        wait_for(is_over, WAIT_S, "the end of the unplugged disk's series")
        assert reads(prometheus, guest, "") == {kept.alias: 23, gone.alias: 23}
        assert run.stop() == 0
    guest.destroy()


def reads(prometheus: Prometheus, guest: Guest, function: str) -> dict[str, float]:
    """A function of each disk's count of READ; with the target's label, so that none goes by its pointer."""
    series = f'{NAMES["scsi"][0]}{{qemu_domain_name="{guest.name}", scsi_operation_name="READ", qemu_disk_target!=""}}'
    return {labels["qemu_disk_alias"]: value for labels, value in prometheus.query(f"{function}({series})")}
