# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.fleet``: what one Collector needs for many sidecars; the rule of docs/scale.md comes from here."""

import gzip
import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from bench.cpu import process_ns
from bench.figures import Figure, print_table
from bench.fleet_requests import OPERATIONS, TraceTemplate, captured_requests, metrics_request
from bench.fleet_sidecars import Load, Sent, send_load
from bench.machine import machine
from bench.probe import report
from tests.backends import collector, jaeger
from tests.backends.collector import Collector
from tests.backends.jaeger import Jaeger

SETTLE_S = 60.0
"""The most that the gateway may take to hand on the last trace: tail sampling waits 5 s before it decides."""


class Usage(NamedTuple):
    """CPU time and memory of the gateway, and what it has taken so far."""

    cpu_ns: int
    resident_bytes: int
    spans: float
    data_points: float
    exported_spans: float


class Scrape(NamedTuple):
    """What Prometheus gets, without compression, and what that takes of the gateway."""

    series: int
    text_bytes: int
    elapsed_s: float
    cpu_ns: int


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--sidecars", type=click.IntRange(1), default=200, show_default=True)
@click.option("--traces", type=click.IntRange(1), default=10, show_default=True, help="A second, of each sidecar.")
@click.option("--guests", type=click.IntRange(1), default=10, show_default=True, help="Of each, with one disk.")
@click.option("--duration", type=click.FloatRange(5), default=20.0, show_default=True, help="Of each phase, in s.")
@click.option("--json", "to_json", is_flag=True, help="One object of plain numbers.")
def main(sidecars: int, traces: int, guests: int, duration: float, to_json: bool) -> None:
    """Many sidecars' OTLP against one gateway of collector/ and one Jaeger: traces, then metrics, then both."""
    on = machine()
    captured = captured_requests()
    load = Load(traces, guests, traces_every_s=1.0, metrics_every_s=10.0)
    figures = _sizes(captured, load) + _measure(captured, sidecars, load, duration)
    if to_json:
        click.echo(json.dumps(report(on, {"fleet": figures})))
    else:
        click.echo(" ".join(f"{name}={value}" for name, value in on.items()) + "\n")
        title = f"{sidecars} sidecars, each {traces} traces/s and {guests} guests"
        print_table(title, figures, sys.stdout)


def _one(name: str, value: float) -> Figure:
    return Figure.of(name, [value])


def _sizes(captured: list[bytes], load: Load) -> list[Figure]:
    template = TraceTemplate(captured, load.traces, "hypervisor-0")
    body = template.fresh()
    metrics, points = metrics_request(captured, load.guests, "hypervisor-0")
    return [
        _one("spans_per_trace", template.spans / load.traces),
        _one("span_bytes", len(body) / template.spans),
        _one("span_gzip_bytes", len(gzip.compress(body, 1)) / template.spans),
        _one("data_points_per_disk", points / load.guests),
        _one("data_point_bytes", len(metrics) / points),
        _one("data_point_gzip_bytes", len(gzip.compress(metrics, 1)) / points),
        _one("operations_per_disk", len(OPERATIONS)),
    ]


def _measure(captured: list[bytes], sidecars: int, load: Load, duration_s: float) -> list[Figure]:
    cache = jaeger.cache_folder()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="otel-qemu-fleet-")))
        backend = stack.enter_context(Jaeger.start(jaeger.install(cache, _say), folder / "jaeger"))
        variables = {"OTELCOL_JAEGER": backend.otlp_grpc.removeprefix("http://"), "OTELCOL_MEMORY_MIB": "4096"}
        binary = collector.install(cache, _say)
        gateway = stack.enter_context(Collector.start(binary, folder, "gateway.yaml", **variables))
        figures: list[Figure] = []
        for name, part in {"traces": replace(load, guests=0), "metrics": replace(load, traces=0), "both": load}.items():
            figures += _phase(name, gateway, captured, sidecars, part, duration_s)
        return figures


def _phase(
    name: str, gateway: Collector, captured: list[bytes], sidecars: int, load: Load, duration_s: float
) -> list[Figure]:
    before = _usage(gateway)
    sent = send_load(gateway.otlp_http, captured, sidecars, load, duration_s)
    scrape = _scraped(gateway)
    after = _settled(gateway, before.exported_spans + sent.spans)
    _check(sent, before, after)
    cpu_ns = after.cpu_ns - before.cpu_ns - scrape.cpu_ns
    figures = [
        _one(f"{name}_accepted_percent", 100 * sent.requests / (sent.requests + sent.failed)),
        _one(f"{name}_cpu_percent_of_a_core", cpu_ns / duration_s / 1e7),
        _one(f"{name}_answer_p50_ms", float(np.percentile(sent.answer_s, 50)) * 1e3),
        _one(f"{name}_answer_p99_ms", float(np.percentile(sent.answer_s, 99)) * 1e3),
        _one(f"{name}_late_p99_ms", float(np.percentile(sent.late_s, 99)) * 1e3),
        _one(f"{name}_gateway_resident_mb", after.resident_bytes / 1e6),
    ]
    if load.traces:
        figures.append(_one(f"{name}_spans_per_s", sent.spans / duration_s))
    if load.guests:
        figures.append(_one(f"{name}_data_points_per_s", sent.data_points / duration_s))
        figures += [
            _one(f"{name}_series", scrape.series),
            _one(f"{name}_series_text_bytes", scrape.text_bytes / scrape.series),
            _one(f"{name}_scrape_s", scrape.elapsed_s),
            _one(f"{name}_scrape_cpu_us_per_series", scrape.cpu_ns / scrape.series / 1e3),
        ]
    if not load.guests:
        figures.append(_one("gateway_cpu_us_per_span", cpu_ns / sent.spans / 1e3))
    if not load.traces:
        figures.append(_one("gateway_cpu_us_per_data_point", cpu_ns / sent.data_points / 1e3))
    return figures


def _scraped(gateway: Collector) -> Scrape:
    before, begun = _usage(gateway).cpu_ns, time.monotonic()
    page = gateway.metrics()
    elapsed_s, cpu_ns = time.monotonic() - begun, _usage(gateway).cpu_ns - before
    series = sum(1 for line in page.splitlines() if line and line[0] != "#")
    return Scrape(series, len(page), elapsed_s, cpu_ns)


def _settled(gateway: Collector, exported_spans: float) -> Usage:
    """The gateway's usage once it has exported these spans, or at the deadline."""
    deadline = time.monotonic() + SETTLE_S
    while (usage := _usage(gateway)).exported_spans < exported_spans and time.monotonic() < deadline:
        time.sleep(0.5)
    return usage


def _check(sent: Sent, before: Usage, after: Usage) -> None:
    """Compare what was sent with what the gateway reports as accepted and exported."""
    taken = after.spans - before.spans, after.data_points - before.data_points
    if taken != (sent.spans, sent.data_points) and not sent.failed:
        raise RuntimeError(f"sent {sent.spans} spans and {sent.data_points} data points, the gateway has {taken}")
    if after.exported_spans - before.exported_spans != taken[0] and not sent.failed:
        raise RuntimeError(f"the gateway exported {after.exported_spans - before.exported_spans} of {taken[0]} spans")


def _usage(gateway: Collector) -> Usage:
    assert gateway.process
    pid = gateway.process.pid
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return Usage(
        process_ns(pid),
        pages * os.sysconf("SC_PAGE_SIZE"),
        gateway.own("otelcol_receiver_accepted_spans"),
        gateway.own("otelcol_receiver_accepted_metric_points"),
        gateway.own("otelcol_exporter_sent_spans"),
    )


def _say(text: str) -> None:
    click.echo(text, err=True)


if __name__ == "__main__":
    main()
