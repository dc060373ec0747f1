# SPDX-License-Identifier: Apache-2.0
"""The dashboards of deploy/grafana ask for nothing that the sidecar does not export, and their parts fit together."""

import re
from typing import Any

import pytest
import yaml

from otel_qemu.export.metrics.instruments import INSTRUMENTS, Instrument, InstrumentKind
from otel_qemu.export.resources import Resources
from otel_qemu.trace.names import Guest
from tests.dashboards import DASHBOARDS, GRAFANA, asked_by, asked_of, load, panels
from tests.support.decoded import resource_of

_UNITS = {"s": "_seconds", "By": "_bytes"}
_PARTS = {InstrumentKind.HISTOGRAM: ("_bucket", "_sum", "_count"), InstrumentKind.COUNTER: ("_total",)}

board = pytest.fixture(params=DASHBOARDS, ids=lambda path: path.stem)(lambda request: load(request.param))


def test_there_are_two() -> None:
    """One of the fleet, one of a guest."""
    assert [path.stem for path in DASHBOARDS] == ["fleet", "guest"]


def series(instrument: Instrument) -> dict[str, set[str]]:
    """Names that Prometheus gives a metric, and their labels (OpenTelemetry's compatibility/prometheus)."""
    guest = resource_of(Resources().of(Guest(1, "qemu", "uuid", "name")))
    labels = {key.replace(".", "_") for key in (*instrument.attributes, *guest)} | {"job", "instance"}
    name = instrument.name.replace(".", "_") + _UNITS.get(instrument.unit, "")
    parts = _PARTS.get(instrument.kind, ("",))
    return {name + part: labels | {"le"} if part == "_bucket" else labels for part in parts}


def test_queries_name_what_is_exported(board: dict[str, Any]) -> None:
    """Every metric is one of ours, with the labels that it has."""
    exported = {name: labels for each in INSTRUMENTS.values() for name, labels in series(each).items()}

    for asked in asked_of(board):
        assert asked.metric in exported
        assert asked.labels <= exported[asked.metric], asked


@pytest.mark.parametrize(
    ("query", "metric", "labels"),
    [
        ("qemu_x", "qemu_x", set()),
        ('rate(qemu_x{a="1",b=~"$host"}[$__rate_interval])', "qemu_x", {"a", "b"}),
        ("topk(3, sum by (a) (rate(qemu_x[5m])))", "qemu_x", {"a"}),
        ("max(sum by (a, b) (qemu_x)) or vector(0)", "qemu_x", {"a", "b"}),
        ("-(qemu_x{a=\"1\"} / on (b) qemu_x)", "qemu_x", {"a", "b"}),
    ],
)  # fmt: skip
def test_what_a_query_asks_for_is_found(query: str, metric: str, labels: set[str]) -> None:
    """The test of the tests: matchers, groupings and joins, however deep."""
    found = asked_by(query)
    assert {asked.metric for asked in found} == {metric}
    assert set().union(*(asked.labels for asked in found)) == labels


def test_what_is_no_query_is_refused() -> None:
    """As Prometheus would."""
    with pytest.raises(ValueError):
        asked_by("sum by (rate(qemu_x[5m])")


def test_panels_lie_side_by_side(board: dict[str, Any]) -> None:
    """Each has an id and a title of its own; none lies on another or beyond the edge."""
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert len({panel["title"] for panel in board["panels"]}) == len(board["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}  # fmt: skip
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_variables_of_queries_exist(board: dict[str, Any]) -> None:
    """And all of them are used."""

    names = {variable["name"] for variable in board["templating"]["list"]}
    queries = [target["expr"] for panel in panels(board) for target in panel["targets"]]
    queries += [variable["query"]["query"] for variable in board["templating"]["list"] if variable["type"] == "query"]
    used = {name for query in queries for name in re.findall(r"\$(?!__)(\w+)", query)}
    assert used | {"datasource"} == names
    sources = {target["datasource"]["uid"] for panel in panels(board) for target in panel["targets"]}
    assert sources == {"${datasource}"}


def test_heat_maps_and_percentiles_have_exemplars() -> None:
    """They lead from a point to its trace."""
    (guest,) = [load(path) for path in DASHBOARDS if path.stem == "guest"]
    heat_maps = [panel for panel in panels(guest) if panel["type"] == "heatmap"]
    assert len(heat_maps) == 3
    for panel in heat_maps:
        assert all(target["exemplar"] and target["format"] == "heatmap" for target in panel["targets"])


def test_links_and_sources_fit_together() -> None:
    """Dashboards link to each other by uid, exemplars to a source that is provisioned, by the label that they have."""
    boards = {board["uid"]: board for board in map(load, DASHBOARDS)}
    texts = [text for board in boards.values() for text in _strings(board)]
    linked = {text.split("/d/")[1].split("?")[0] for text in texts if "/d/" in text}
    assert linked == set(boards)
    (file,) = (GRAFANA / "provisioning/datasources").iterdir()
    sources = {source["uid"]: source for source in yaml.safe_load(file.read_text())["datasources"]}
    (exemplars,) = sources["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert exemplars["name"] == "trace_id"
    assert sources[exemplars["datasourceUid"]]["type"] == "jaeger"


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for part in value.values() for text in _strings(part)]
    if isinstance(value, list):
        return [text for part in value for text in _strings(part)]
    return [value] if isinstance(value, str) else []
