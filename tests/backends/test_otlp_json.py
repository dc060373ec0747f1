# SPDX-License-Identifier: Apache-2.0
"""
OTLP-JSON that a span cannot hold is refused, and what it leaves out has the protocol's defaults.
"""

from typing import Any

import pytest

from .otlp_json import Span, decode_traces

IDS = {"traceId": "0a", "spanId": "0b", "startTimeUnixNano": "1", "endTimeUnixNano": "3"}


def document(span: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"resource": {}, "scopeSpans": [{"scope": {}, "spans": [IDS | span]}]}]


def test_what_is_left_out_is_the_default() -> None:
    """A span of nothing but ids and times decodes."""
    (trace,) = decode_traces(document({}))
    assert trace.spans == (Span("0a", "0b", "", "", "", "UNSPECIFIED", 1, 3, {}, "UNSET", "", (), {}, ""),)


@pytest.mark.parametrize("value", [{}, {"arrayValue": {"values": []}}, {"stringValue": 3}])
def test_a_value_of_another_kind_is_refused(value: dict[str, Any]) -> None:
    """Nothing is turned into a string quietly."""
    with pytest.raises(ValueError, match="'odd' is no string, number or bool"):
        decode_traces(document({"attributes": [{"key": "odd", "value": value}]}))


def test_nothing_gives_no_trace() -> None:
    """An empty answer is an empty list."""
    assert decode_traces([]) == []
