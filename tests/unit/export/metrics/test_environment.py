# SPDX-License-Identifier: Apache-2.0
"""What the standard variables make of the client of metrics."""

import json
import threading
import time
from contextlib import closing

import pytest

from otel_qemu.errors import BadInput
from otel_qemu.export.metrics.client import MetricsClient
from otel_qemu.export.metrics.export_settings import MetricSettings, Temporality
from otel_qemu.export.spans.encoded import EncodedTrace
from otel_qemu.trace.histograms import DEFAULT_BOUNDS_S
from tests.support.builders import Request, names, traces
from tests.support.metering import READ, Kernel
from tests.support.metric_clients import SCSI, snapshot


def one_read() -> Kernel:
    """A kernel that has counted one request."""
    kernel = Kernel(DEFAULT_BOUNDS_S)
    kernel.request(READ, 5_000)
    return kernel


@pytest.mark.parametrize(("variable", "value"), [("OTEL_METRICS_EXPORTER", "none"), ("OTEL_SDK_DISABLED", "true")])
def test_off_means_off(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is due, nothing is kept, no thread runs."""
    monkeypatch.setenv(variable, value)
    before = set(threading.enumerate())
    with closing(MetricsClient.from_environment()) as client:
        assert not set(threading.enumerate()) - before
        assert not client.is_due()
        assert client.exemplars is None
        client.measure(snapshot(one_read()))
    assert not client.readings.points()


def test_the_console_prints_a_request_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As OTLP/JSON has it: ids of exemplars are hexadecimal, enumerations numbers."""
    kernel = one_read()
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "console")
    with closing(MetricsClient.from_environment()) as client:
        assert client.exemplars
        sent = EncodedTrace(bytes(range(16)), bytes(range(8)), b"", b"", 1)
        fields = {"randomness": int.from_bytes(sent.trace_id[-7:], "big")}
        made = traces(Request("READ", time.monotonic_ns(), 5_000, fields=fields))
        client.exemplars.consider(made, names())
        client.exemplars.on_sent([sent])
        client.measure(snapshot(kernel, last=True))
    (line,) = capsys.readouterr().out.splitlines()
    metrics = {metric["name"]: metric for resource in json.loads(line)["resourceMetrics"]
               for metric in resource["scopeMetrics"][0]["metrics"]}  # fmt: skip
    histogram = metrics[SCSI]["histogram"]
    assert histogram["aggregationTemporality"] == 2
    (shown,) = histogram["dataPoints"][0]["exemplars"]
    assert (shown["traceId"], shown["spanId"]) == (sent.trace_id.hex(), sent.root_id.hex())


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the specification's variables, its default, and what is refused, by name and with what is allowed."""
    assert MetricSettings.from_environment() == MetricSettings(60.0, 30.0, Temporality.CUMULATIVE, False, True)
    prefix = "OTEL_EXPORTER_OTLP_METRICS_"
    for name, value, attribute, expected in (
        ("OTEL_METRIC_EXPORT_INTERVAL", "1500", "interval_s", 1.5),
        ("OTEL_METRIC_EXPORT_TIMEOUT", "200", "timeout_s", 0.2),
        (f"{prefix}TEMPORALITY_PREFERENCE", "LowMemory", "temporality", Temporality.LOWMEMORY),
        (f"{prefix}DEFAULT_HISTOGRAM_AGGREGATION", "base2_exponential_bucket_histogram", "exponential", True),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "always_on", "exemplars", True),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "always_off", "exemplars", False),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert getattr(MetricSettings.from_environment(), attribute) == expected
            patch.setenv(name, "sideways")
            with pytest.raises(BadInput, match=f"{name} is 'sideways': it must be"):
                MetricSettings.from_environment()


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_METRICS_EXPORTER"])
def test_a_wrong_destination_is_refused_by_name(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics have variables of their own."""
    monkeypatch.setenv(variable, "nowhere:port")
    with pytest.raises(BadInput, match=f"^{variable} is 'https://nowhere:port'|^{variable} is 'nowhere:port'"):
        MetricsClient.from_environment()
