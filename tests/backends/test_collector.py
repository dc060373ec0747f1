# SPDX-License-Identifier: Apache-2.0
"""The configurations of collector/, run as they stand: what goes in at the agent comes out at the backends."""

import contextlib
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .collector import Collector
from .jaeger import Jaeger, Trace, wait_for
from .otlp import Sent, histogram_request, post, spans_request

WAIT_S = 120.0
MINUTE_NS = 60_000_000_000
ONE_IN_1000 = 0xFFBE77 << 32
"""The rejection threshold of ``th:ffbe77``."""
ONE_IN_100 = "fd70a3d70a3d71"


@dataclass(frozen=True)
class Fleet:
    """An agent, its two gateways, and a backend behind each of them."""

    agent: Collector
    gateways: tuple[Collector, Collector]
    backends: tuple[Jaeger, Jaeger]


@pytest.fixture(scope="module")
def fleet(otelcol: Path, binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    with contextlib.ExitStack() as stack:
        backends, gateways = [], []
        for name in ("first", "second"):
            backends.append(stack.enter_context(Jaeger.start(binary, folder / name)))
            gateway = Collector.start(
                otelcol, folder / name, "gateway.yaml", OTELCOL_JAEGER=address(backends[-1]),
                OTELCOL_DECISION_WAIT="1s", OTELCOL_FLUSH="1s",
            )  # fmt: skip
            gateways.append(stack.enter_context(gateway))
        addresses = ", ".join(gateway.grpc_address for gateway in gateways)
        agent = Collector.start(otelcol, folder, "agent.yaml", OTELCOL_GATEWAYS=f"[{addresses}]")
        yield Fleet(stack.enter_context(agent), (gateways[0], gateways[1]), (backends[0], backends[1]))


def address(jaeger: Jaeger) -> str:
    """Where it takes OTLP over gRPC, as a Collector has it."""
    return jaeger.otlp_grpc.removeprefix("http://")


def found(jaeger: Jaeger, service: str) -> dict[str, Trace]:
    """What a backend has of a service, by trace id."""
    now = time.time_ns()
    return {trace.trace_id: trace for trace in jaeger.traces(service, now - 10 * MINUTE_NS, now + MINUTE_NS)}


def test_a_trace_that_comes_in_parts_is_whole_behind_one_gateway(fleet: Fleet, service: str) -> None:
    """Children first, parents in a later request: by their id they meet at the same gateway; both have their share."""
    sent = [Sent(service) for _ in range(100)]
    parents, children = zip(*(each.spans() for each in sent), strict=True)
    post(fleet.agent.otlp_http, "traces", spans_request(service, children))
    post(fleet.agent.otlp_http, "traces", spans_request(service, parents))

    def both() -> list[dict[str, Trace]]:
        return [found(backend, service) for backend in fleet.backends]

    wait_for(lambda: sum(map(len, both())) >= len(sent), WAIT_S, "all traces")
    first, second = both()
    assert first.keys() | second.keys() == {each.trace_id for each in sent}
    assert not first.keys() & second.keys()
    assert len(first) > 10 < len(second)
    for trace in (*first.values(), *second.values()):
        assert [span.name for span in (*trace.roots, *trace.children(trace.roots[0]))] == ["WRITE", "rbd.aio_write"]
        assert {span.trace_state for span in trace.spans} == {"ot=th:0"}


def test_a_guests_series_come_from_one_gateway_with_exemplars(fleet: Fleet, service: str) -> None:
    """Under the names that dashboards ask for, each from one gateway only; the exemplar has the trace's id."""
    trace_id = secrets.token_hex(16)
    guests = [f"web{number}" for number in range(20)]
    for name in guests:
        body = histogram_request(service, name, [3, 2, 1], [0.001, 0.1], trace_id)
        post(fleet.agent.otlp_http, "metrics", body)
    line = re.compile(
        rf'^qemu_scsi_request_duration_seconds_bucket{{(?=[^}}]*job="{service}")[^}}]*le="(?P<le>[^"]*)"[^}}]*}}'
        rf' (?P<count>\S+)(?: # {{(?P<exemplar>[^}}]*)}}.*)?$', re.M
    )  # fmt: skip

    def series() -> list[list[tuple[str, re.Match[str]]]]:
        return [[(_label(m[0], "qemu_domain_name"), m) for m in line.finditer(g.metrics())] for g in fleet.gateways]

    wait_for(lambda: len({name for each in series() for name, _ in each}) == len(guests), WAIT_S, "all guests")
    first, second = series()
    assert not {name for name, _ in first} & {name for name, _ in second}
    assert {name for name, _ in first}
    assert {name for name, _ in second}
    of_one = {m["le"]: m for name, m in (*first, *second) if name == "web7"}
    assert {le: float(m["count"]) for le, m in of_one.items()} == {"0.001": 3, "0.1": 5, "+Inf": 6}
    assert f'trace_id="{trace_id}"' in of_one["+Inf"]["exemplar"]


def _label(series: str, name: str) -> str:
    (value,) = re.findall(rf'{name}="([^"]*)"', series)
    return str(value)


def kept_by_sidecar(service: str) -> Sent:
    """One in 1000, as a sidecar decides it: by the randomness of the trace id."""
    randomness = ONE_IN_1000 + secrets.randbelow((1 << 56) - ONE_IN_1000)
    return Sent(service, f"{secrets.token_hex(9)}{randomness:014x}", "ot=th:ffbe77")


@pytest.fixture
def sampling(otelcol: Path, jaeger: Jaeger, tmp_path: Path) -> Iterator[Collector]:
    """A gateway that keeps one in 100."""
    variables = {"OTELCOL_JAEGER": address(jaeger), "OTELCOL_KEEP_PERCENT": "1"}
    with Collector.start(
        otelcol, tmp_path, "gateway.yaml", **variables, OTELCOL_DECISION_WAIT="1s", OTELCOL_FLUSH="1s"
    ) as gateway:
        yield gateway


def test_tail_sampling_respects_what_the_sidecar_decided(sampling: Collector, jaeger: Jaeger, service: str) -> None:
    """
    One in 100 of everything: errors, slow ones and the sidecars' one in 1000 stay, with their thresholds; of what a
    sidecar kept with certainty those stay whose ids say so, with the new one.  Span metrics count what each stands for.
    """
    errors = [Sent(service, error=True) for _ in range(5)]
    slow = [Sent(service, duration_ms=250) for _ in range(5)]
    sampled = [kept_by_sidecar(service) for _ in range(10)]
    certain = [Sent(service) for _ in range(1000)]
    least = int(ONE_IN_100.ljust(14, "0"), 16)
    chosen = {each.trace_id for each in certain if int(each.trace_id[-14:], 16) >= least}
    everything = [*errors, *slow, *sampled, *certain]

    body = spans_request(service, [span for each in everything for span in each.spans()])
    post(sampling.otlp_http, "traces", body)

    expected = {each.trace_id: each.trace_state for each in (*errors, *slow, *sampled)}
    expected |= dict.fromkeys(chosen, f"ot=th:{ONE_IN_100}")
    wait_for(lambda: len(found(jaeger, service)) >= len(expected), WAIT_S, "what is kept")
    states = {key: {span.trace_state for span in trace.spans} for key, trace in found(jaeger, service).items()}
    assert states == {trace_id: {state} for trace_id, state in expected.items()}

    calls = wait_for(lambda: _calls(sampling, service), WAIT_S, "span metrics")
    assert calls["STATUS_CODE_ERROR"] == len(errors)
    weighed = calls["STATUS_CODE_UNSET"] - len(slow) - len(certain)
    assert abs(weighed - 1000 * len(sampled)) <= len(sampled)  # each is rounded to a whole number at random


def _calls(gateway: Collector, service: str) -> dict[str, float]:
    """traces_span_metrics_calls_total of WRITE, by status."""
    lines = re.findall(r"^traces_span_metrics_calls_total\{(.*?)\} (\S+)", gateway.metrics(), re.M)
    ours = [(labels, float(value)) for labels, value in lines if f'"{service}"' in labels and '"WRITE"' in labels]
    return {_label(labels, "status_code"): value for labels, value in ours}


def test_both_backends_get_the_same(otelcol: Path, binary: Path, jaeger: Jaeger, service: str, tmp_path: Path) -> None:
    """With two exporters each has every trace, with all of its fields; Tempo's is stood in for by a second Jaeger,
    which speaks the same protocol."""
    with Jaeger.start(binary, tmp_path / "tempo") as tempo, Collector.start(
        otelcol, tmp_path, "gateway.yaml", OTELCOL_JAEGER=address(jaeger), OTELCOL_TEMPO=address(tempo),
        OTELCOL_TRACES_TO="[otlp_grpc/jaeger, otlp_grpc/tempo]", OTELCOL_DECISION_WAIT="1s",
    ) as gateway:  # fmt: skip
        sent = [Sent(service) for _ in range(20)]
        post(gateway.otlp_http, "traces", spans_request(service, [span for each in sent for span in each.spans()]))
        wait_for(lambda: len(found(jaeger, service)) >= len(sent) <= len(found(tempo, service)), WAIT_S, "all traces")
        assert found(jaeger, service) == found(tempo, service)
        assert found(jaeger, service).keys() == {each.trace_id for each in sent}


def test_a_gateway_that_ends_sends_what_it_holds(otelcol: Path, jaeger: Jaeger, service: str, tmp_path: Path) -> None:
    """Traces whose decision was still open are decided on and sent."""
    variables = {"OTELCOL_JAEGER": address(jaeger), "OTELCOL_DECISION_WAIT": "1h"}
    with Collector.start(otelcol, tmp_path, "gateway.yaml", **variables) as gateway:
        sent = [Sent(service) for _ in range(20)]
        post(gateway.otlp_http, "traces", spans_request(service, [span for each in sent for span in each.spans()]))
        assert found(jaeger, service) == {}
    assert found(jaeger, service).keys() == {each.trace_id for each in sent}
