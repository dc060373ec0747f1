# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.scale``: the table of docs/scale.md, out of what `bench.fleet` measured and a hypervisor does."""

import math
from dataclasses import dataclass

HYPERVISORS = (1, 10, 100, 1_000, 10_000)


@dataclass(frozen=True)
class Costs:
    """
    What `bench.fleet` measured.

    Attributes:
        spans_per_trace: spans of a request that makes librbd calls.
        span_bytes, point_bytes: on the wire, by gzip.
        stored_span_bytes: as protobuf, before a backend compresses it.
        points_per_disk: of the metrics of a disk that reads, writes and flushes.
        series_per_disk: of the same in Prometheus, with 18 bounds.
        span_cpu_s, point_cpu_s: of a gateway.
        scrape_cpu_s: of a gateway, by series that it offers, at each scrape.
        series_bytes: of a gateway's memory, by series that it offers.
        rate_bytes: of a gateway's memory, by span a second.
    """

    spans_per_trace: float = 2.5
    span_bytes: float = 93.1
    stored_span_bytes: float = 416
    point_bytes: float = 83.2
    points_per_disk: int = 18
    series_per_disk: int = 270
    span_cpu_s: float = 60.9e-6
    point_cpu_s: float = 28.3e-6
    scrape_cpu_s: float = 6.47e-6
    series_bytes: float = 630
    rate_bytes: float = 37_000


@dataclass(frozen=True)
class Hypervisor:
    """
    What one does.

    Attributes:
        disks: of all its guests.
        requests_per_s: of all its guests.
        one_in: of these a trace is kept.
        slow_share: of these are slow or errors, and kept all.
        interval_s: between two exports of metrics, and between two scrapes of the gateway.
    """

    disks: int = 40
    requests_per_s: float = 6_000
    one_in: int = 1_000
    slow_share: float = 0.001
    interval_s: float = 60

    @property
    def traces_per_s(self) -> float:
        """That are sent."""
        return self.requests_per_s * (self.slow_share + (1 - self.slow_share) / self.one_in)


@dataclass(frozen=True)
class Need:
    """What a number of hypervisors needs, at all backends together."""

    hypervisors: int
    spans_per_s: float
    points_per_s: float
    wire_bytes_per_s: float
    series: float
    cores: float
    memory_bytes: float
    stored_bytes_per_day: float


def need(hypervisors: int, one: Hypervisor | None = None, costs: Costs | None = None) -> Need:
    """What this number of hypervisors needs; cores and memory are those of busy gateways."""
    one, costs = one or Hypervisor(), costs or Costs()
    spans = hypervisors * one.traces_per_s * costs.spans_per_trace
    points = hypervisors * one.disks * costs.points_per_disk / one.interval_s
    series = hypervisors * one.disks * costs.series_per_disk
    return Need(
        hypervisors,
        spans,
        points,
        spans * costs.span_bytes + points * costs.point_bytes,
        series,
        spans * costs.span_cpu_s + points * costs.point_cpu_s + series * costs.scrape_cpu_s / one.interval_s,
        series * costs.series_bytes + spans * costs.rate_bytes,
        spans * costs.stored_span_bytes * 86_400,
    )


def gateways(of: Need, cores: int, memory_bytes: float) -> int:
    """How many gateways of this size: each half busy, and one more, so that one may be missing; two at least."""
    return max(math.ceil(2 * of.cores / cores), math.ceil(2 * of.memory_bytes / memory_bytes)) + 1


def table() -> list[str]:
    """Markdown."""
    head = "| hypervisors | spans/s | data points/s | wire | series | cores | memory | spans a day | gateways |"
    return [head, "|" + " ---: |" * 9, *map(_row, map(need, HYPERVISORS))]


def _row(of: Need) -> str:
    rates = (_short(of.spans_per_s), _short(of.points_per_s), f"{_short(of.wire_bytes_per_s)}B/s", _short(of.series))
    rest = (f"{of.cores:.2g}", f"{_short(of.memory_bytes)}B", f"{_short(of.stored_bytes_per_day)}B")
    cells = (f"{of.hypervisors:,}", *rates, *rest, f"{gateways(of, 8, 16e9):,}")
    return f"| {' | '.join(cells)} |"


def _short(value: float) -> str:
    """Two digits and a decimal prefix."""
    for prefix, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{float(f'{value / factor:.2g}'):g} {prefix}"
    return f"{float(f'{value:.2g}'):g}"


if __name__ == "__main__":
    print("\n".join(table()))
