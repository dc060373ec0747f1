"""The standard variables choose where traces go, and a wrong one is named."""

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from otel_qemu.errors import BadInput
from otel_qemu.export.client import Limits, TraceClient
from otel_qemu.export.exporters import destination
from otel_qemu.export.ids import Ids
from otel_qemu.export.readable import readable
from otel_qemu.export.resources import Resources
from otel_qemu.export.spans import encode

from . import builders
from .test_export_queue import is_conserved


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SDK_DISABLED", "TRACES_EXPORTER", "EXPORTER_OTLP_PROTOCOL", "EXPORTER_OTLP_TRACES_PROTOCOL"):
        monkeypatch.delenv(f"OTEL_{name}", raising=False)


def spans() -> list[ReadableSpan]:
    return list(readable(encode(builders.traces(builders.write()), builders.names(), Resources(), Ids())))


@pytest.mark.parametrize(("variable", "value"), [("OTEL_SDK_DISABLED", "TRUE"), ("OTEL_TRACES_EXPORTER", "none")])
def test_export_can_be_switched_off(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    sender = TraceClient.from_environment()
    sender.send(spans())
    assert sender.flush(0)
    stats = sender.close()
    assert stats.dropped_disabled_spans == stats.produced_spans
    assert stats.lost_spans == 0
    assert is_conserved(stats)


def test_the_console_shows_spans(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    with TraceClient.from_environment() as sender:
        sender.send(spans())
        assert sender.flush(10)
    assert capsys.readouterr().out.count('"name": "WRITE"') == 1


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


def test_what_the_exporter_refuses_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "zip")
    with pytest.raises(BadInput, match="zip"):
        destination()


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "77")
    assert destination().name == "http://localhost:4318"
    assert Limits.from_environment() == Limits(queue_spans=77)


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_no_compression_has_a_name(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    assert destination().exporter is not None


def test_a_password_in_the_endpoint_is_told_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://me:secret@collector:4318/v1/traces?token=1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    assert destination().name == "http://collector:4318"
