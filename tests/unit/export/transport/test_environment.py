# SPDX-License-Identifier: Apache-2.0
"""The standard variables choose where traces go, and a wrong one is named."""

import json
from contextlib import closing

import pytest

from otel_qemu.errors import BadInput
from otel_qemu.export.delivery.batching import room_bytes
from otel_qemu.export.delivery.client import TraceClient
from otel_qemu.export.delivery.fates import Fate, Tally
from otel_qemu.export.delivery.limits import Limits
from otel_qemu.export.transport.destination import destination
from tests.support.encoded_traces import encoded, many
from tests.support.ledgers import is_conserved
from tests.support.sending import queue_of


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SDK_DISABLED", "TRACES_EXPORTER", "EXPORTER_OTLP_PROTOCOL", "EXPORTER_OTLP_TRACES_PROTOCOL"):
        monkeypatch.delenv(f"OTEL_{name}", raising=False)


@pytest.mark.parametrize(("variable", "value"), [("OTEL_SDK_DISABLED", "TRUE"), ("OTEL_TRACES_EXPORTER", "none")])
def test_export_can_be_switched_off(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    sender = TraceClient.from_environment()
    sender.send(many(1))
    assert sender.flush(0)
    stats = sender.close()
    assert stats[Fate.DISABLED] == stats.produced == Tally(2, 1)
    assert stats.lost.spans == 0
    assert is_conserved(stats)


def test_the_console_shows_otlp_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A line a request, with ids in hexadecimal, as OTLP has them."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    trace = encoded(2)
    with closing(TraceClient.from_environment()) as sender:
        sender.send([trace])
        assert sender.flush(10)
    (line,) = capsys.readouterr().out.splitlines()
    (of_resource,) = json.loads(line)["resourceSpans"]
    root, child = of_resource["scopeSpans"][0]["spans"]
    assert root["traceId"] == trace.trace_id.hex()
    assert root["spanId"] == child["parentSpanId"] == trace.root_id.hex()
    assert (root["name"], root["startTimeUnixNano"]) == ("0/2", "1000000000")


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("OTEL_TRACES_EXPORTER", "jaeger", ["otlp, console, none"]),
        ("OTEL_SDK_DISABLED", "yes", ["true, false"]),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", ["grpc, http/protobuf"]),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "tcp", ["grpc, http/protobuf"]),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "many", ["1 or more"]),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "0", ["1 or more"]),
        ("OTEL_BSP_SCHEDULE_DELAY", "nan", ["0.0 or more"]),
        ("OTEL_BSP_SCHEDULE_DELAY", "-1", ["0.0 or more"]),
    ],
)
def test_a_wrong_value_is_named_with_what_would_be_right(
    variable: str, value: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(BadInput) as raised:
        TraceClient.from_environment()
    for word in [variable, repr(value), *words]:
        assert word in str(raised.value)


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "77")
    assert destination().name == "http://localhost:4318/v1/traces"
    assert Limits.from_environment() == Limits(queue=queue_of(77))


@pytest.mark.parametrize(("spans", "queue_mib"), [("", 2), ("", 32), ("77", 32)])
def test_memory_bounds_the_queue_unless_spans_are_asked_for(
    spans: str, queue_mib: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the endpoint is away, as much waits as was allowed, and no less for being many small spans."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", spans)
    sender = TraceClient.from_environment(Limits.from_environment(queue_mib << 20))
    traces = [encoded(1)] * 1000
    while not sender.stats[Fate.QUEUE_FULL].traces:
        sender.send(traces)
    queued = sender.stats[Fate.WAITING].traces
    sender.close(0.1)
    assert queued == (int(spans) if spans else (queue_mib << 20) // room_bytes(traces[0]))
