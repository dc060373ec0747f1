# SPDX-License-Identifier: Apache-2.0
"""What an export of metrics costs: a snapshot added to the totals, and the totals made into a request."""

import gzip

import numpy as np
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics

from bench import snapshots
from bench.figures import Figure, Samples
from bench.spans import GZIP_LEVEL, cpu_ns
from otel_qemu.export.metrics.entries import Entry, metrics_data
from otel_qemu.export.metrics.export_settings import MetricSettings
from otel_qemu.export.metrics.readings import Readings
from otel_qemu.export.resources import Resources
from otel_qemu.trace.measurements import ProcessCounts, Snapshot

_START_UNIX_NS = 1_700_000_000_000_000_000


def measure(repetitions: int, guests: int = snapshots.GUESTS, disks: int = snapshots.DISKS) -> list[Figure]:
    """CPU time of one export of all guests, and its size."""
    readings = Readings(MetricSettings(), Resources(), _START_UNIX_NS, 0)
    random, known = np.random.default_rng(7), snapshots.names(guests, disks)
    processes = tuple(ProcessCounts((pid, 1), *snapshots.tables(pid, disks, random)) for pid in known.guests)
    samples: Samples = {"fold": [], "encode": []}
    for minute in range(1, repetitions + 1):
        now = Snapshot(_START_UNIX_NS + minute * 60 * 10**9, minute * 60 * 10**9, known, processes)
        samples["fold"].append(cpu_ns(lambda now=now: readings.fold(now)) / 1e6)  # type: ignore[misc]
        samples["encode"].append(cpu_ns(lambda: _body(readings)) / 1e6)
    body = _body(readings)
    return [
        *(Figure.of(f"{name}_ms_an_export", ms) for name, ms in samples.items()),
        Figure.of("points_an_export", [len(_entries(readings))]),
        Figure.of("request_bytes_an_export", [len(body)]),
        Figure.of("gzip_bytes_an_export", [len(gzip.compress(body, GZIP_LEVEL))]),
    ]


def _body(readings: Readings) -> bytes:
    body: bytes = encode_metrics(metrics_data(_entries(readings))).SerializeToString()
    return body


def _entries(readings: Readings) -> list[Entry]:
    return readings.entries(readings.points(), {})
