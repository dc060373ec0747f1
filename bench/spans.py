# SPDX-License-Identifier: Apache-2.0
"""Spans made and serialised: by our encoder, and by the SDK's `ReadableSpan` and its exporter's encoder."""

import gc
import gzip
import itertools
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource

from bench.figures import Figure, Samples, ratios
from otel_qemu.events import Ending, RbdOperation
from otel_qemu.export.resources import Resources
from otel_qemu.export.spans.encode import encode
from otel_qemu.export.spans.encoded import request_of
from otel_qemu.export.spans.ids import Ids
from otel_qemu.trace.names import Disk, Guest, Names
from otel_qemu.trace.scsi import operation_code
from otel_qemu.trace.traces import CALL, REQUEST, Join, Traces
from tests.support.readable_spans import spans_of

REQUESTS = 4096
GUESTS, DISKS = 20, 3
GZIP_LEVEL = 1
"""As our transports use it; zlib's and the SDK's default is 9."""
_UNIX_OFFSET_NS = 1_700_000_000_000_000_000
_THRESHOLD = (1 << 56) - (1 << 56) // 1000

Encode = Callable[[Traces, Names], list[bytes]]


def measure(repetitions: int, requests: int = REQUESTS) -> list[Figure]:
    """CPU time a span of each way, in turn; one in ten requests waits in QEMU."""
    traces, names = some_traces(requests), some_names()
    resources, ids = Resources(), Ids()
    sdk_resources = {pid: Resource({"process.pid": pid, "service.name": "qemu"}) for pid in names.guests}
    random_ids = itertools.count(1 << 100)

    def ours() -> bytes:
        return request_of(encode(traces, names, resources, ids))

    def sdks() -> bytes:
        spans = spans_of(traces, names, sdk_resources, ((n, n & 0xFFFF_FFFF) for n in random_ids))
        return encode_spans(spans).SerializeToString()

    span_count = sum(trace.span_count for trace in encode(traces, names, resources, ids))
    readable = spans_of(traces, names, sdk_resources, ((n, n & 0xFFFF_FFFF) for n in random_ids))
    ways: dict[str, Callable[[], object]] = {
        "encode": lambda: encode(traces, names, resources, ids),
        "encode_request": ours,
        "encode_request_gzip": lambda: gzip.compress(ours(), GZIP_LEVEL),
        "sdk_encode": lambda: encode_spans(readable).SerializeToString(),
        "sdk": sdks,
        "sdk_gzip": lambda: gzip.compress(sdks()),
    }
    samples: Samples = {name: [] for name in ways}
    for _ in range(repetitions):
        for name, way in ways.items():
            samples[name].append(cpu_ns(way) / span_count)
    bytes_a_span = {"request": len(ours()) / span_count, "gzip": len(gzip.compress(ours(), GZIP_LEVEL)) / span_count}
    return summarised(samples, bytes_a_span)


def summarised(samples: Samples, bytes_a_span: dict[str, float]) -> list[Figure]:
    """Figures of CPU ns a span by way, and of bytes a span."""
    spans_a_s = [1e9 / ns for ns in samples["encode_request"]]
    return [
        *(Figure.of(f"{name}_ns_a_span", ns) for name, ns in samples.items()),
        Figure.of("encode_request_spans_a_s", spans_a_s),
        Figure.of("encode_request_us_a_span", [ns / 1e3 for ns in samples["encode_request"]], aim=10.0),
        Figure.of("to_sdk_ratio", ratios(samples["encode_request"], samples["sdk"]), aim=0.25),
        Figure.of("to_sdk_encode_ratio", ratios(samples["encode_request"], samples["sdk_encode"]), aim=0.25),
        Figure.of("to_sdk_gzip_ratio", ratios(samples["encode_request_gzip"], samples["sdk_gzip"]), aim=0.25),
        *(Figure.of(f"{name}_bytes_a_span", [size]) for name, size in bytes_a_span.items()),
    ]


def cpu_ns(way: Callable[[], object]) -> int:
    """CPU time of one go, without the garbage of the one before it."""
    gc.collect()
    gc.disable()
    try:
        begin_ns = time.thread_time_ns()
        way()
        return time.thread_time_ns() - begin_ns
    finally:
        gc.enable()


def some_names() -> Names:
    """Guests with disks on RBD."""
    names = Names()
    for guest in range(GUESTS):
        pid = 4000 + guest
        names.guests[pid] = Guest(
            pid, "/usr/bin/qemu-system-x86_64", f"6f0b1f7e-0000-4000-8000-{pid:012x}", f"web{pid}"
        )
        for disk in range(DISKS):
            known = Disk(f"ua-disk{disk}", f"sd{'abc'[disk]}", "rbd", f"web{pid}-disk{disk}", "raw")
            names.devices[pid, 0x5581_0000_1000 + disk] = names.images[pid, 0x5581_0000_2000 + disk] = known
    return names


def some_traces(count: int, seed: int = 1) -> Traces:
    """
    READs and WRITEs of the guests of `some_names`, one call each, as a busy hypervisor has them.

    Random addresses, sizes of 4 to 128 KiB, one in ten held back by a throttle for 1 to 9 ms, one in 200 failed.
    """
    random = np.random.default_rng(seed)
    requests, calls = np.zeros(count, REQUEST), np.zeros(count, CALL)
    is_read = random.random(count) < 0.7
    waits_ns = np.where(random.random(count) < 0.1, random.integers(10**6, 9 * 10**6, count), 18_000)
    disk = random.integers(0, DISKS, count)
    failed = random.random(count) < 0.005
    _fill(
        requests,
        pid=4000 + random.integers(0, GUESTS, count),
        device=0x5581_0000_1000 + disk,
        operation=np.where(is_read, operation_code("READ"), operation_code("WRITE")),
        opcode=np.where(is_read, 0x28, 0x2A),
        ending=np.full(count, Ending.COMPLETED),
        status=np.where(failed, 2, 0),
        sense_key=np.where(failed, 3, 0),
        tag=random.integers(0, 256, count),
        lba=random.integers(0, 1 << 31, count),
        bytes=4096 << random.integers(0, 6, count),
        block_bytes=np.full(count, 512),
        first_call=np.arange(count),
        calls=np.ones(count),
        submit_ns=10**12 + 50_000 * np.arange(count),
        wait_ns=waits_ns,
        rbd_ns=random.integers(200_000, 3_000_000, count),
        completion_ns=random.integers(5_000, 40_000, count),
        randomness=random.integers(_THRESHOLD, 1 << 56, count),
        threshold=np.where(failed, 0, _THRESHOLD),
    )
    requests["complete_ns"] = requests["submit_ns"] + sum(
        requests[name].astype("u8") for name in ("wait_ns", "rbd_ns", "completion_ns")
    )
    _fill(
        calls,
        pid=requests["pid"],
        image=0x5581_0000_2000 + disk,
        operation=np.where(is_read, RbdOperation.READ, RbdOperation.WRITE),
        join=np.full(count, Join.WALK_RANGE),
        parent=np.arange(count),
        submit_ns=requests["submit_ns"] + waits_ns.astype("u8"),
        complete_ns=requests["submit_ns"] + (waits_ns + requests["rbd_ns"]).astype("u8"),
        offset=512 * requests["lba"],
        length=requests["bytes"],
        return_value=np.where(failed, -5, np.where(is_read, requests["bytes"], 0)),
    )
    return Traces(requests, calls, _UNIX_OFFSET_NS)


def _fill(table: NDArray[np.void], **columns: NDArray[np.generic]) -> None:
    for name, values in columns.items():
        table[name] = values
