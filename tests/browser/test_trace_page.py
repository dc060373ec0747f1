# SPDX-License-Identifier: Apache-2.0
"""
What the product sent stands on Jaeger's page: a person sees the request, its wait and its calls, and no more than text.
"""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from otel_qemu import cli
from tests.backends.jaeger import Jaeger, Span, Trace

from .chromium import Chromium
from .trace_page import NO_PARENT, ShownSpan, read_trace

RECORDING = str(Path(__file__).parents[1] / "replay/recordings/throttled.otq")
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><b>bold</b></script>"
ESCAPE = "\x1b[31m"
OF_JAEGER = {
    "otel.scope.name", "otel.scope.version", "otel.status_code", "otel.status_description", "span.kind",
    "w3c.tracestate", "error",
}  # fmt: skip
"""Among the attributes on the page there are also fields of the span."""


@pytest.fixture
def slowest(capsys: pytest.CaptureFixture[str]) -> Any:
    """The slowest write of a recording, as `replay --json` prints it."""
    assert cli.main(["replay", RECORDING, "--json"]) == 0
    lines = map(json.loads, capsys.readouterr().out.splitlines())
    return max((line for line in lines if line["operation"] == "WRITE"), key=lambda line: line["duration_ns"])


@pytest.fixture
def trace(jaeger: Jaeger, service: str, slowest: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Trace:
    """The same request as Jaeger has it, after the recording was sent there."""
    return sent(jaeger, service, slowest, monkeypatch)


def sent(jaeger: Jaeger, service: str, line: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Trace:
    """Send the recording as a user does; gives the trace of one of its requests, which starts when that did."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", jaeger.otlp_grpc)
    monkeypatch.setenv("OTEL_SERVICE_NAME", service)
    assert cli.main(["replay", RECORDING, "--otlp"]) == 0
    start_ns = line["start_unix_ns"]
    (trace,) = jaeger.traces(service, start_ns - 1, start_ns + 1, operation="WRITE")
    return trace


def shown(browser: Chromium, jaeger: Jaeger, trace: Trace) -> list[ShownSpan]:
    """What its page shows of it."""
    return read_trace(browser, f"{jaeger.query}/trace/{trace.trace_id}", len(trace.spans))


def test_the_page_shows_the_request_its_wait_and_its_call(
    browser: Chromium, jaeger: Jaeger, service: str, trace: Trace, slowest: dict[str, Any]
) -> None:
    """Names, nesting, durations and figures on the page are those that `replay --json` prints of the same request."""
    request, *below = shown(browser, jaeger, trace)
    (child,) = slowest["children"]

    assert (request.name, request.service.strip(), request.parent_id) == ("WRITE", service, NO_PARENT)
    assert {span.parent_id for span in below} == {request.span_id}
    wait, call = sorted(below, key=lambda span: span.name)
    assert (wait.name, call.name) == ("block.wait", "rbd.aio_write")
    durations_ns = {
        request.name: slowest["duration_ns"],
        wait.name: slowest["wait_ns"],
        call.name: child["duration_ns"],
    }
    for span in (request, wait, call):
        assert span.duration_ns == pytest.approx(durations_ns[span.name], rel=0.01)
    assert request.attributes["scsi.lba"] == str(slowest["lba"])
    assert request.attributes["scsi.transfer.size"] == str(slowest["bytes"])
    assert request.attributes["qemu.disk.alias"] == slowest["disk"]
    assert request.resource["qemu.domain.name"] == slowest["domain"]
    assert call.attributes["ceph.rbd.image"] == child["image"].split("/")[-1]
    assert call.attributes["ceph.rbd.offset"] == str(child["offset"])
    assert call.attributes["ceph.rbd.length"] == str(child["length"])


def test_every_attribute_is_on_the_page(browser: Chromium, jaeger: Jaeger, trace: Trace) -> None:
    """Of each span all that was sent, and nothing that was not."""
    found = {span.span_id: span for span in shown(browser, jaeger, trace)}
    assert found.keys() == {span.span_id for span in trace.spans}
    for span in trace.spans:
        on_page = {key: value for key, value in found[span.span_id].attributes.items() if key not in OF_JAEGER}
        assert on_page == {key: as_shown(value) for key, value in span.attributes.items()}
        assert found[span.span_id].attributes["span.kind"] == span.kind.lower()
        assert found[span.span_id].resource == resource_of(span)


def resource_of(span: Span) -> dict[str, str]:
    """What the page shows of a resource: all but the service, which stands before the name."""
    return {key: as_shown(value) for key, value in span.resource.items() if key != "service.name"}


def as_shown(value: object) -> str:
    """As JavaScript writes it: 2.0 is 2, and from 0.000001 on there is no exponent."""
    if isinstance(value, bool):
        return str(value).lower()
    return np.format_float_positional(value, trim="-") if isinstance(value, float) else str(value)


def test_hostile_text_comes_out_as_text(
    browser: Chromium, jaeger: Jaeger, slowest: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name with markup, script and escape codes is shown letter by letter, and nothing of it runs."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", f"hostile={quote(HOSTILE + ESCAPE)}")
    request, *_ = shown(browser, jaeger, sent(jaeger, HOSTILE, slowest, monkeypatch))
    assert request.service.strip() == HOSTILE
    assert request.resource["hostile"] == HOSTILE + "\\x1b[31m"  # the product leaves no escape code in a name
    assert browser.script("return document.querySelectorAll('img[src=x], .span-row b').length") == 0
    assert browser.script("return document.title") != "owned"
