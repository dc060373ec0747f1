# SPDX-License-Identifier: Apache-2.0
"""`otel-qemu run` but for the kernel: every setting reaches the part that it is of, and has its effect there."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_qemu import cli
from otel_qemu.errors import BadInput
from otel_qemu.events import NO_RECORDS, Batch, Kept
from otel_qemu.export.delivery.fates import Fate
from otel_qemu.export.sink import ExportSink
from otel_qemu.export.spans.tracestate import trace_state
from otel_qemu.meters import Meter
from otel_qemu.policy import KeepPolicy
from otel_qemu.probe.selection import Selection
from otel_qemu.probe.tracer import unix_offset_ns
from otel_qemu.service import Intervals
from otel_qemu.settings import SETTINGS
from otel_qemu.sinks import Sink
from otel_qemu.trace.measurements import Snapshot
from otel_qemu.trace.pipeline import Pipeline
from otel_qemu.trace.sample import threshold_of
from otel_qemu.trace.traces import Traces
from tests.support.builders import Call, Request, names, traces
from tests.support.metering import READ, WRITE, Kernel
from tests.support.otlp_server import HTTP, Server, serving

MS = 1_000_000
NOWHERE = "http://127.0.0.1:9"


@dataclass
class Stage:
    """In the service's place: hands traces to the sinks, and counts to the meters."""

    selection: Selection
    sinks: Sequence[Sink]
    policy: KeepPolicy
    bounds_s: tuple[float, ...]
    meters: Sequence[Meter]
    intervals: Intervals
    notifier: object
    audit: bool
    pipeline: Pipeline = field(default_factory=Pipeline)
    counters: dict[str, int] = field(default_factory=dict)
    abandoned: int = 0
    still_in_flight: tuple[int, int] = (0, 0)

    acts: "Callable[[Stage], None]" = lambda _stage: None
    waits: bool = False
    duration_s: float | None = None

    def run(self, duration_s: float | None, _ready: object, wait: bool) -> None:
        self.duration_s, self.waits = duration_s, wait
        self.acts(self)

    def hand_out(self, made: Traces) -> None:
        for sink in self.sinks:
            sink.take(Batch(NO_RECORDS, 0), made, names())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Takes traces; metrics are off."""
    with serving(HTTP) as made:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", made.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", HTTP)
        monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
        yield made


def run(*options: str, acts: Callable[[Stage], None] = lambda _stage: None) -> Stage:
    """The command with these options; what became of the service."""
    made: list[Stage] = []

    def staged(*arguments: Any, **options: Any) -> Stage:
        made.append(Stage(*arguments, **options))
        made[0].acts = acts
        return made[0]

    with patch.object(cli, "Service", staged):
        assert cli.main(["run", *options]) == 0
    return made[0]


def flood(stage: Stage) -> None:
    """Some 10 MB of traces."""
    for _ in range(8):
        stage.hand_out(reads(2000))


def reads(count: int, kept: Kept = Kept.SLOW) -> Traces:
    """Of one span each: waits of 50 µs have none."""
    return traces(*(Request("READ", 1_000, MS // 20, fields={"kept": kept}) for _ in range(count)))


def spans(server: Server) -> list[Span]:
    return [span for request in server.taken for of_resource in request.resource_spans
            for of_scope in of_resource.scope_spans for span in of_scope.spans]  # fmt: skip


def waits_of(server: Server, *options: str) -> int:
    """How many waits arrive of two requests, which wait 2 of 100 and 0.05 of 0.1 ms for their call."""
    long = Request("READ", 0, 100 * MS, (Call(submit_ns=2 * MS, duration_ns=98 * MS),), {"kept": Kept.SLOW})
    short = Request("READ", 0, MS // 10, (Call(submit_ns=MS // 20, duration_ns=MS // 20),), {"kept": Kept.SLOW})
    server.taken.clear()
    run(*options, acts=lambda stage: stage.hand_out(traces(long, short)))
    return sum(span.name == "block.wait" for span in spans(server))


def test_the_loops_settings_reach_the_loop(server: Server) -> None:
    """Which guests, what to keep, how often; what is no setting, too."""
    stage = run(
        "--domain", "web1", "--pid", "7", "--one-in", "5", "--slow", "2s", "--slow-operation", "WRITE=20ms",
        "--drain-interval", "100ms", "--refresh-interval", "2s", "--look-interval", "3s", "--bounds", "1ms,2ms",
        "--duration", "9", "--wait", "--audit",
    )  # fmt: skip
    assert stage.policy == KeepPolicy(5, 2.0, (("WRITE", 0.02),))
    assert stage.intervals == Intervals(0.1, 2.0, 3.0)
    assert stage.bounds_s == (0.001, 0.002)
    assert (stage.duration_s, stage.waits, stage.audit) == (9.0, True, True)
    assert (stage.selection._domains, stage.selection._pids) == (frozenset({"web1"}), (7,))


@pytest.mark.parametrize("one_in", [1, 250])
def test_one_in_is_what_spans_say(server: Server, one_in: int) -> None:
    """Of what the kernel's dice let pass, that it stands for so many."""
    run("--one-in", str(one_in), acts=lambda stage: stage.hand_out(reads(3, Kept.SAMPLED)))
    assert {span.trace_state for span in spans(server)} == {trace_state(threshold_of(one_in))}


def test_guest_rate_sheds(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """What is above it, on average; and off keeps all."""
    run("--guest-rate", "20", acts=lambda stage: stage.hand_out(reads(2000)))
    assert 0 < len(spans(server)) < 500  # 100 are expected, for a burst may be of 5 s
    assert f"{2000 - len(spans(server))} traces left out, above the rate of their guest" in capsys.readouterr().err
    server.taken.clear()
    run("--guest-rate", "off", acts=lambda stage: stage.hand_out(reads(2000)))
    assert len(spans(server)) == 2000


def test_waits_have_spans_from_their_thresholds_on(server: Server) -> None:
    """By length or by share, whichever is less."""
    assert waits_of(server) == 2
    assert waits_of(server, "--wait-share", "0.6") == 1
    assert waits_of(server, "--wait-span", "3ms") == 1
    assert waits_of(server, "--wait-span", "3ms", "--wait-share", "0.6") == 0
    assert waits_of(server, "--wait-span", "40us", "--wait-share", "1") == 2


def test_queue_size_bounds_what_waits(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the endpoint is away: twice the size, twice the traces."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", NOWHERE)
    most: list[int] = []

    def flood_and_look(stage: Stage) -> None:
        flood(stage)
        (sink,) = stage.sinks
        assert isinstance(sink, ExportSink)
        most.append(sink.stats[Fate.WAITING].traces)
        sink.close(0.1)

    for size in ("1MiB", "2MiB"):
        run("--guest-rate", "off", "--queue-size", size, acts=flood_and_look)
    assert 1.9 < most[1] / most[0] < 2.1
    assert most[1] < 16_000


def test_exemplars_are_of_traces_that_arrived(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the sampler to the data point: only of what the one kept and the endpoint took."""
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "console")
    kernel = Kernel((0.001, 0.1))
    kernel.request(READ, 5 * MS)
    kernel.request(WRITE, 5 * MS)

    def trace(stage: Stage) -> None:
        now_ns = time.monotonic_ns() - 5 * MS
        read = Request("READ", now_ns, 5 * MS, fields={"kept": Kept.SLOW})
        write = Request("WRITE", now_ns, 5 * MS, fields={"kept": Kept.SAMPLED})  # and yet none is to be kept
        stage.hand_out(traces(read, write, unix_offset_ns=unix_offset_ns()))
        moment = time.time_ns(), time.monotonic_ns()
        stage.meters[0].measure(Snapshot(*moment, names(), (kernel.counts(),), last=True))

    run("--one-in", "0", "--bounds", "1ms,100ms", acts=trace)
    (root,) = (span for span in spans(server) if not span.parent_span_id)
    (line,) = capsys.readouterr().out.splitlines()
    metrics = [
        metric
        for resource in json.loads(line)["resourceMetrics"]
        for of_scope in resource["scopeMetrics"]
        for metric in of_scope["metrics"]
    ]
    points = [
        point
        for metric in metrics
        if metric["name"] == "qemu.scsi.request.duration"
        for point in metric["histogram"]["dataPoints"]
    ]
    assert [point["explicitBounds"] for point in points] == [[0.001, 0.1]] * 2
    (shown,) = [each for point in points for each in point.get("exemplars", ())]
    assert (shown["traceId"], shown["spanId"]) == (root.trace_id.hex(), root.span_id.hex())
    assert shown["asDouble"] == 0.005
    (sent,) = (metric["sum"] for metric in metrics if metric["name"] == "otel_qemu.spans.sent")
    assert int(sent["dataPoints"][0]["asInt"]) == len(spans(server))  # the last metrics come after the last traces


def test_exponential_histograms_have_bounds_of_their_own(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the standard variable; the kernel is told, whatever `bounds` says."""
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "console")
    variable = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION"
    monkeypatch.setenv(variable, "base2_exponential_bucket_histogram")
    bounds_s = run("--bounds", "1ms").bounds_s
    assert len(bounds_s) == 31
    assert 1.0 in bounds_s


def test_what_is_wrong_is_refused_before_anything_is_begun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A variable of traces, of metrics or of both, by name; and no thread is left."""
    threads = threading.active_count()
    with patch.object(cli, "Service", side_effect=AssertionError):
        for variable, value in (
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0"), ("OTEL_METRIC_EXPORT_INTERVAL", "never"),
            ("OTEL_RESOURCE_ATTRIBUTES", "no-pair"), ("OTEL_TRACES_EXPORTER", "nobody"),
        ):  # fmt: skip
            with monkeypatch.context() as wrong:
                wrong.setenv(variable, value)
                assert cli.main(["run"]) == BadInput.exit_code
            assert variable in capsys.readouterr().err
    assert threading.active_count() == threads


def test_every_setting_is_tried_here() -> None:
    """By its flag, above."""
    text = Path(__file__).read_text()
    assert [name for name in SETTINGS if f'"--{name}"' not in text] == []
