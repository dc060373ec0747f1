# SPDX-License-Identifier: Apache-2.0
"""docs/scale.md says what bench.scale works out, of what bench.fleet measured."""

import itertools
import re
from dataclasses import replace
from pathlib import Path

import pytest

from bench.scale import HYPERVISORS, Costs, Hypervisor, gateways, need, table
from otel_qemu.export.resources import Resources
from otel_qemu.settings import Settings
from otel_qemu.trace.names import Guest

TEXT = (Path(__file__).parents[3] / "docs/scale.md").read_text()
ROWS = re.findall(r"^\| `(\w+)` \| ([\d.,]+) \|", TEXT, re.M)
MEASURED = {name: float(value.replace(",", "")) for name, value in ROWS}


def test_the_table_is_the_one_that_is_worked_out() -> None:
    """Line by line."""
    assert "\n".join(table()) in TEXT


@pytest.mark.parametrize(
    ("cost", "figure", "factor"),
    [
        ("spans_per_trace", "spans_per_trace", 1),
        ("span_bytes", "span_gzip_bytes", 1),
        ("stored_span_bytes", "span_bytes", 1),
        ("point_bytes", "data_point_gzip_bytes", 1),
        ("points_per_disk", "data_points_per_disk", 1),
        ("span_cpu_s", "gateway_cpu_us_per_span", 1e-6),
        ("point_cpu_s", "gateway_cpu_us_per_data_point", 1e-6),
        ("scrape_cpu_s", "metrics_scrape_cpu_us_per_series", 1e-6),
    ],
)
def test_costs_are_those_that_were_measured(cost: str, figure: str, factor: float) -> None:
    """As the document gives them."""
    assert getattr(Costs(), cost) == pytest.approx(MEASURED[figure] * factor)


def test_series_and_memory_are_those_that_were_measured() -> None:
    """270 series a disk; memory by what each phase added, to a tenth."""
    assert Costs().series_per_disk == MEASURED["metrics_series"] / 2000
    added = MEASURED["metrics_gateway_resident_mb"] - MEASURED["traces_gateway_resident_mb"]
    assert Costs().series_bytes == pytest.approx(added * 1e6 / MEASURED["metrics_series"], rel=0.1)
    assert Costs().rate_bytes == pytest.approx(
        (MEASURED["traces_gateway_resident_mb"] - 60) * 1e6 / MEASURED["traces_spans_per_s"], rel=0.1
    )  # 60 MB it has before anything comes


def test_needs_grow_as_the_hypervisors_do() -> None:
    """Ten times of them need ten times of all."""
    for some, more in itertools.pairwise(HYPERVISORS):
        for name in ("spans_per_s", "points_per_s", "wire_bytes_per_s", "series", "cores", "memory_bytes"):
            assert getattr(need(more), name) == pytest.approx(10 * getattr(need(some), name))


def test_what_is_kept_is_what_is_sent() -> None:
    """One in N of the rest, and all that are slow."""
    one = Hypervisor(requests_per_s=1000, one_in=100, slow_share=0.5)
    assert one.traces_per_s == pytest.approx(500 + 5)
    assert replace(one, one_in=1).traces_per_s == pytest.approx(1000)


def test_a_gateway_may_be_missing() -> None:
    """One more than half busy ones, and so never one alone."""
    assert gateways(need(1), 8, 16e9) == 2
    busy = need(1000)
    assert gateways(busy, 1, 1e15) >= 2 * busy.cores + 1


def test_the_rule_is_of_the_defaults() -> None:
    """What a guest in trouble sends, and what waits on the agent's disk, by the sidecar's own defaults."""
    rate, one = Settings().guest_traces_per_s or 0, Hypervisor()
    assert one.one_in == Settings().one_in
    spans = 30 * rate * Costs().spans_per_trace
    quiet = need(1).spans_per_s
    assert f"30 guests at {rate} traces are {spans:,.0f} spans a second, {spans / quiet:.0f} times the quiet" in TEXT
    resource = Resources().of(Guest(1, "qemu-system-x86_64", "6f0b1f7e-0000-4000-8000-000000000001", "web1"))
    assert len(resource) + Costs().stored_span_bytes * Costs().spans_per_trace == pytest.approx(1_600, rel=0.1)
    assert f"{one.traces_per_s * 1_600 * 3600 / 1e6:.0f} MB of the agent's disk" in " ".join(TEXT.split())
    assert f"{round(rate * 1_600 * 3600 / 1e6, -1):.0f} MB more for each guest" in TEXT
