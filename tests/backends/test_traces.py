# SPDX-License-Identifier: Apache-2.0
"""A real guest's traces, fetched back from a real Jaeger: what stands there is what the guest did."""

import os
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.backends.jaeger import Jaeger, Span, Trace, wait_for
from tests.lab.disk import Disk
from tests.lab.guest import Guest
from tests.lab.lab import Lab
from tests.lab.tracing import Tracing
from tests.lab.workload import Workload

DISK = Disk("exported", bytes_per_s=20_000_000)
# One disk, so nothing shares librbd or the throttle; a different number of each operation.
WRITES, READS, FLUSHES, DISCARDS = 53, 31, 5, 3
EVERYTHING = ("--one-in", "1", "--guest-rate", "off")


@pytest.fixture(scope="module")
def guest(lab: Lab) -> Iterator[Guest]:
    guest = lab.guest("exported", disks=[DISK])
    yield guest
    guest.destroy()


def environment(jaeger: Jaeger, protocol: str) -> dict[str, str]:
    endpoint = jaeger.otlp_grpc if protocol == "grpc" else jaeger.otlp_http
    return {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}


def traced(jaeger: Jaeger, guest: Guest, workload: Workload, protocol: str) -> list[Trace]:
    """Run a workload under `otel-qemu run`, and give what Jaeger then has of it."""
    begin_ns = time.time_ns()
    with Tracing("run", "--domain", guest.name, *EVERYTHING, env=environment(jaeger, protocol)) as tracing:
        workload.run(guest, guest.device(DISK))
        assert tracing.stop() == 0
    assert " 0 lost" in tracing.stderr
    return wait_for(lambda: jaeger.traces("qemu", begin_ns, time.time_ns()), 120, "the guest's traces")


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_the_guests_requests_stand_in_jaeger(jaeger: Jaeger, guest: Guest, protocol: str) -> None:
    """Every read, write, flush and discard is a trace with its operation's name, range and size, over each protocol."""
    workload = Workload.mixed(7, DISK.size_bytes, WRITES, READS, FLUSHES, DISCARDS, sizes=(4096, 65536))

    found = traced(jaeger, guest, workload, protocol)

    operations = Counter(trace.roots[0].name for trace in found)
    assert (operations["WRITE"], operations["READ"]) == (WRITES, READS)
    assert (operations["SYNCHRONIZE_CACHE"], operations["UNMAP"]) == (FLUSHES, DISCARDS)
    written = Counter((r.offset, r.length) for r in workload.requests if r.operation == "write")
    assert written == Counter(_range(trace.roots[0]) for trace in found if trace.roots[0].name == "WRITE")
    for trace in found:
        if trace.roots[0].name == "WRITE":
            assert_write(trace, guest)


def _range(span: Span) -> tuple[int, int]:
    lba, block, size = (span.attributes[f"scsi.{name}"] for name in ("lba", "block.size", "transfer.size"))
    assert isinstance(lba, int)
    assert isinstance(block, int)
    assert isinstance(size, int)
    return lba * block, size


def assert_write(trace: Trace, guest: Guest) -> None:
    """A WRITE span with its rbd.aio_write inside it in time; guest, disk, pool, image and status as attributes."""
    (root,) = trace.roots
    (call,) = [span for span in trace.children(root) if span.name == "rbd.aio_write"]
    assert root.kind == "SERVER"
    assert call.kind == "CLIENT"
    assert root.start_unix_ns <= call.start_unix_ns <= call.end_unix_ns <= root.end_unix_ns
    assert root.resource["qemu.domain.name"] == guest.name
    assert root.resource["qemu.domain.uuid"] == root.resource["service.instance.id"] == guest.uuid
    assert root.attributes["qemu.disk.alias"] == DISK.alias
    assert (root.attributes["scsi.status"], root.status_code) == ("GOOD", "UNSET")
    assert (call.attributes["ceph.rbd.pool"], call.attributes["ceph.rbd.image"]) == ("rbd", DISK.image)
    assert (call.attributes["ceph.rbd.offset"], call.attributes["ceph.rbd.length"]) == _range(root)
    assert call.attributes["otel_qemu.join"] == "walk+range"


def test_throttling_has_a_span_of_its_own(jaeger: Jaeger, guest: Guest) -> None:
    """A write that <iotune> held back shows its wait as a block.wait span that ends where librbd begins."""
    begin_ns = time.time_ns()
    with Tracing("run", "--domain", guest.name, *EVERYTHING, env=environment(jaeger, "grpc")) as tracing:
        guest.run("dd if=/dev/zero of=/dev/sda bs=1M count=23 oflag=direct")
        assert tracing.stop() == 0
    found = wait_for(lambda: jaeger.traces("qemu", begin_ns, time.time_ns(), operation="WRITE"), 120, "its writes")
    slowest = max(found, key=lambda trace: trace.roots[0].duration_ns)

    (wait,) = [span for span in slowest.spans if span.name == "block.wait"]
    (call,) = [span for span in slowest.spans if span.name == "rbd.aio_write"]
    assert wait.kind == "INTERNAL"
    assert wait.end_unix_ns == call.start_unix_ns
    assert wait.duration_ns > call.duration_ns
