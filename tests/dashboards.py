# SPDX-License-Identifier: Apache-2.0
"""
What the dashboards of deploy/grafana ask for: every query in them, and the metrics and labels that it names.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import promql_parser

GRAFANA = Path(__file__).parents[1] / "deploy/grafana"
DASHBOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))

_MACROS = {"$__rate_interval": "5m", "$__range": "1h", "$__interval": "1m"}
_LABEL_VALUES = re.compile(r"label_values\((?P<selector>.+), (?P<label>\w+)\)")


class Asked(NamedTuple):
    """
    What a query asks of one metric.

    Attributes:
        metric: its name in Prometheus.
        labels: that are matched, grouped or joined by.
    """

    metric: str
    labels: frozenset[str]


def load(path: Path) -> dict[str, Any]:
    """A dashboard."""
    board: dict[str, Any] = json.loads(path.read_text())
    return board


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every panel with queries."""
    yield from (panel for panel in board["panels"] if panel["type"] != "row")


def queries(board: dict[str, Any]) -> list[str]:
    """Every PromQL query of panels and variables, as written."""
    found = [target["expr"] for panel in panels(board) for target in panel["targets"]]
    return found + [
        _LABEL_VALUES.fullmatch(variable["query"]["query"])["selector"]  # type: ignore[index]
        for variable in board["templating"]["list"]
        if variable["type"] == "query"
    ]


def asked_of(board: dict[str, Any]) -> list[Asked]:
    """What a dashboard asks for, legends and the labels that variables list included."""
    found = [asked for query in queries(board) for asked in asked_by(query)]
    for panel in panels(board):
        for target in panel["targets"]:
            legend = frozenset(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            found += [Asked(asked.metric, legend) for asked in asked_by(target["expr"])]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            parts = _LABEL_VALUES.fullmatch(variable["query"]["query"])
            assert parts, f"variable {variable['name']} is no label_values()"
            found += [Asked(asked.metric, frozenset({parts["label"]})) for asked in asked_by(parts["selector"])]
    return found


def asked_by(query: str) -> list[Asked]:
    """
    What one query asks for.

    Raises:
        ValueError: it is not PromQL.
    """
    for macro, value in _MACROS.items():
        query = query.replace(macro, value)
    query = re.sub(r"\$\w+", ".*", query)
    return list(_walk(promql_parser.parse(query), frozenset()))


def _walk(node: Any, labels: frozenset[str]) -> Iterator[Asked]:
    """Every selector below a node; `labels` are those that what is above groups by."""
    if isinstance(node, promql_parser.VectorSelector):
        yield Asked(str(node.name), labels | {matcher.name for matcher in node.matchers.matchers})
    elif isinstance(node, promql_parser.MatrixSelector):
        yield from _walk(node.vector_selector, labels)
    elif isinstance(node, promql_parser.AggregateExpr):
        # What is above an aggregation sees the labels that it groups by, and no others; topk() groups by none.
        yield from _walk(node.expr, frozenset(node.modifier.labels) if node.modifier else labels)
    elif isinstance(node, promql_parser.BinaryExpr):
        joined = frozenset(node.modifier.matching.labels) if node.modifier and node.modifier.matching else frozenset()
        for side in (node.lhs, node.rhs):
            yield from _walk(side, labels | joined)
    elif isinstance(node, promql_parser.Call):
        for argument in node.args:
            yield from _walk(argument, labels)
    elif isinstance(node, (promql_parser.ParenExpr, promql_parser.UnaryExpr, promql_parser.SubqueryExpr)):
        yield from _walk(node.expr, labels)
    else:
        assert isinstance(node, (promql_parser.NumberLiteral, promql_parser.StringLiteral)), type(node)
