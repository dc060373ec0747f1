# SPDX-License-Identifier: Apache-2.0
"""The simulated sidecars send what real ones do: whole traces under new ids, and every metric of a guest."""

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bench.fleet_requests import TraceTemplate, captured_requests, metrics_request
from bench.fleet_sidecars import Sent
from otel_qemu.export.metrics.instruments import INSTRUMENTS


@pytest.fixture(scope="module")
def captured() -> list[bytes]:
    return captured_requests()


def traces(body: bytes) -> dict[bytes, list[str]]:
    """Names of the spans of each trace."""
    found: dict[bytes, list[str]] = {}
    for group in ExportTraceServiceRequest.FromString(body).resource_spans:
        for span in group.scope_spans[0].spans:
            found.setdefault(span.trace_id, []).append(span.name)
    return found


def test_requests_differ_in_the_ids_of_their_traces_only(captured: list[bytes]) -> None:
    """Each is as many whole traces of the recording as were asked for, of one hypervisor."""
    template = TraceTemplate(captured, 7, "hypervisor-3")
    first, second = template.fresh(), template.fresh()

    assert len(traces(first)) == len(traces(second)) == 7
    assert not traces(first).keys() & traces(second).keys()
    assert list(traces(first).values()) == list(traces(second).values())
    assert sum(map(len, traces(first).values())) == template.spans
    assert len(first) == len(second)
    (group,) = ExportTraceServiceRequest.FromString(first).resource_spans
    resource = {pair.key: pair.value.string_value for pair in group.resource.attributes}
    assert resource["host.name"] == "hypervisor-3"


def test_children_stay_with_their_parents(captured: list[bytes]) -> None:
    """Each trace has one root, and all others hang from spans of it."""
    (group,) = ExportTraceServiceRequest.FromString(TraceTemplate(captured, 7, "h").fresh()).resource_spans
    spans = group.scope_spans[0].spans
    for trace_id in {span.trace_id for span in spans}:
        own = [span for span in spans if span.trace_id == trace_id]
        ids = {span.span_id for span in own}
        assert [span.parent_span_id in ids for span in own].count(False) == 1


def test_more_traces_than_the_recording_has_are_refused(captured: list[bytes]) -> None:
    """It says how many there are."""
    with pytest.raises(ValueError, match="traces with calls, not 1000000"):
        TraceTemplate(captured, 1_000_000, "h")


def test_metrics_are_those_of_guests(captured: list[bytes]) -> None:
    """Every one, of each guest; the points are counted."""
    body, points = metrics_request(captured, 3, "h")
    request = ExportMetricsServiceRequest.FromString(body)
    names = [{metric.name for metric in group.scope_metrics[0].metrics} for group in request.resource_metrics]
    assert names == [{name for name in INSTRUMENTS if name.startswith(("qemu.", "ceph."))}] * 3
    assert points % 3 == 0
    of_one = request.resource_metrics[0].scope_metrics[0].metrics
    assert points // 3 == sum(len(m.histogram.data_points or m.sum.data_points or m.gauge.data_points) for m in of_one)


def test_what_was_sent_adds_up() -> None:
    """Of all sidecars."""
    assert Sent.all_of([Sent(1, 0, 10, answer_s=[0.5]), Sent(2, 1, 5, answer_s=[0.25])]) == Sent(
        3, 1, 15, answer_s=[0.5, 0.25]
    )
