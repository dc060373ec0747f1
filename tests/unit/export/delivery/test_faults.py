# SPDX-License-Identifier: Apache-2.0
"""
The fault table: an endpoint that misbehaves in one way, and what becomes of 20 traces of 2 spans, 5 a request.

Each line says what is lost and by which reason; the rest is sent.  What the server took are whole traces, each exactly
once, but for the faults that are named `twice`: there the endpoint takes a request and the client cannot know.
"""

import socket
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_qemu.export.delivery.fates import LOSSES, Fate, Stats
from otel_qemu.export.delivery.limits import Limits
from tests.support.cut_wire import Cut, cut_wire
from tests.support.encoded_traces import arrived, encoded, ids, many, span_count
from tests.support.otlp_server import GRPC, HTTP, Behaviour, Reply, Server, script, serving
from tests.support.sending import WAIT_S, is_final, requests_of, sender_to, until

TRACES, SPANS = 20, 2
LIMITS = Limits(request=requests_of(10), delay_s=0, first_pause_s=0.01, longest_pause_s=0.05)
BOTH = (GRPC, HTTP)
CODES = grpc.StatusCode


def coded(of_grpc: Any, of_http: int, **more: Any) -> dict[str, Reply]:
    """The same fault in both protocols; its request is not taken."""
    codes = {GRPC: of_grpc, HTTP: of_http}
    return {protocol: Reply(code, takes=False, **more) for protocol, code in codes.items()}


def alike(reply: Reply) -> dict[str, Reply]:
    return dict.fromkeys(BOTH, reply)


@dataclass(frozen=True)
class Fault:
    """
    One line of the table.

    Attributes:
        name: of the fault.
        replies: by protocol, to the first `times` requests.
        lost: spans and traces by reason; everything else is sent.
        twice: the server may have taken traces more than once, or some that count as lost.
    """

    name: str
    replies: dict[str, Reply]
    times: int = 1
    lost: dict[Fate, tuple[int, int]] = field(default_factory=dict)
    twice: bool = False


REFUSED = {Fate.REFUSED: (10, 5)}
"""One request of four."""
FAULTS = [
    Fault("none", alike(Reply())),
    Fault("slow", alike(Reply(delay_s=0.1)), times=4),
    Fault("unavailable", coded(CODES.UNAVAILABLE, 503), times=7),
    Fault("bad-gateway", coded(CODES.ABORTED, 502), times=2),
    Fault("gateway-timeout", coded(CODES.DEADLINE_EXCEEDED, 504)),
    Fault("throttled", coded(CODES.RESOURCE_EXHAUSTED, 429, retry_after="0.4"), times=2),
    Fault("unavailable-for-a-while", coded(CODES.UNAVAILABLE, 503, retry_after="0.4")),
    Fault("retry-after-nonsense", {HTTP: Reply(503, takes=False, retry_after="soon, Tuesday")}),
    Fault("retry-after-date", {HTTP: Reply(429, takes=False, retry_after=formatdate(0, usegmt=True))}),
    Fault("exhausted-for-good", {GRPC: Reply(CODES.RESOURCE_EXHAUSTED, takes=False)}, lost=REFUSED),
    Fault("too-many-requests", {HTTP: Reply(429, takes=False)}, times=2),
    Fault("unauthorised", coded(CODES.UNAUTHENTICATED, 401), lost=REFUSED),
    Fault("forbidden", coded(CODES.PERMISSION_DENIED, 403), lost=REFUSED),
    Fault("invalid", coded(CODES.INVALID_ARGUMENT, 400), lost=REFUSED),
    Fault("not-there", coded(CODES.UNIMPLEMENTED, 404), lost=REFUSED),
    Fault("broken", coded(CODES.INTERNAL, 500), lost=REFUSED),
    Fault("all-refused", coded(CODES.PERMISSION_DENIED, 403), 99, {Fate.REFUSED: (40, 20)}),
    Fault("partial", alike(Reply(rejected=3)), lost={Fate.REJECTED: (3, 3)}, twice=True),
    Fault("partial-all", alike(Reply(rejected=10)), lost={Fate.REJECTED: (10, 5)}, twice=True),
    Fault("partial-more-than-all", alike(Reply(rejected=1 << 40)), lost={Fate.REJECTED: (10, 5)}, twice=True),
    Fault("partial-negative", alike(Reply(rejected=-4))),
    Fault("redirect", {HTTP: Reply(307, takes=False, location="http://localhost/")}, lost=REFUSED),
    Fault("moved", {HTTP: Reply(301, takes=False, location="/v2/traces")}, lost=REFUSED),
    Fault("not-modified", {HTTP: Reply(304, takes=False)}, lost=REFUSED),
    Fault("accepted-202", {HTTP: Reply(202)}),
    Fault("answers-json", {HTTP: Reply(body=b'{"partialSuccess":{},"more":1}')}),
    Fault("partial-json", {HTTP: Reply(body=b'{"partialSuccess":{"rejectedSpans":"3"}}')}, lost={Fate.REJECTED: (3, 3)},
          twice=True),
    Fault("garbage", alike(Reply(body=b"\xff\x00garbage\x7f")), lost=REFUSED, twice=True),
    Fault("a-web-page", {HTTP: Reply(body=b"<html>log in</html>")}, lost=REFUSED, twice=True),
    Fault("endless-answer", alike(Reply(body=b"\x0a" * (1 << 20))), lost=REFUSED, twice=True),
    Fault("never-answers", alike(Reply(silent=True, takes=False)), times=2),
    Fault("takes-and-never-answers", alike(Reply(silent=True)), times=2, twice=True),
    Fault("drips", {HTTP: Reply(drips=True)}, twice=True),
    Fault("cut-in-the-answer", {HTTP: Reply(cut=True)}, times=3, twice=True),
]  # fmt: skip
LINES = [(fault, protocol) for fault in FAULTS for protocol in fault.replies]


def lost(stats: Stats) -> dict[Fate, tuple[int, int]]:
    return {fate: stats[fate] for fate in LOSSES if any(stats[fate])}


@pytest.mark.parametrize("gzip", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize(("fault", "protocol"), LINES, ids=[f"{fault.name}-{protocol}" for fault, protocol in LINES])
def test_faults(fault: Fault, protocol: str, gzip: bool) -> None:
    """Sent and each loss make what was produced; nothing arrives in part."""
    traces = many(TRACES, SPANS)
    with serving(protocol, script(*[fault.replies[protocol]] * fault.times)) as server:
        timeout_s = 0.4 if fault.replies[protocol].silent or fault.replies[protocol].drips else WAIT_S
        sender = sender_to(server.url, protocol, limits=LIMITS, gzip=gzip, timeout_s=timeout_s)
        sender.send(traces)
        assert sender.flush(WAIT_S)
        stats = sender.close()
    assert is_final(stats)
    assert lost(stats) == fault.lost
    lost_spans, lost_traces = (sum(each) for each in zip((0, 0), *fault.lost.values(), strict=True))
    assert stats[Fate.SENT] == (TRACES * SPANS - lost_spans, TRACES - lost_traces)
    taken = arrived(server.taken)
    if fault.twice:
        assert set(taken) == set(ids(traces))
    else:
        assert set(taken) <= set(ids(traces))
        assert (len(taken), taken.total()) == (stats[Fate.SENT].traces, stats[Fate.SENT].traces)


@pytest.mark.parametrize("protocol", BOTH)
def test_a_pause_that_is_asked_for_is_kept(protocol: str) -> None:
    """Nothing is sent before the endpoint wants it, whatever else is waiting, and little after."""
    asked_s = 1 if protocol == HTTP else 0.7
    code = 503 if protocol == HTTP else CODES.RESOURCE_EXHAUSTED
    with serving(protocol, script(Reply(code, takes=False, retry_after=str(asked_s)))) as server:
        sender = sender_to(server.url, protocol, limits=LIMITS)
        sender.send(many(TRACES))
        until(lambda: sender.stats[Fate.SENT].traces == TRACES)
        sender.close()
    assert server.arrivals_s[1] - server.arrivals_s[0] >= asked_s


def test_a_date_is_a_pause_too() -> None:
    with serving(HTTP, script(Reply(429, takes=False, retry_after=formatdate(time.time() + 2, usegmt=True)))) as server:
        sender = sender_to(server.url, HTTP, limits=LIMITS)
        sender.send(many(1))
        until(lambda: sender.stats[Fate.SENT].traces == 1)
        sender.close()
    assert server.arrivals_s[1] - server.arrivals_s[0] > 0.9  # dates have whole seconds


def limited(protocol: str, most: int) -> Behaviour:
    """An endpoint that takes no more than so many spans at once."""
    code, details = (
        (413, "") if protocol == HTTP else (CODES.RESOURCE_EXHAUSTED, "grpc: received message larger than max")
    )

    def behaviour(request: ExportTraceServiceRequest, _index: int) -> Reply:
        return Reply() if span_count(request) <= most else Reply(code, takes=False, details=details)

    return behaviour


@pytest.mark.parametrize("protocol", BOTH)
def test_what_is_too_large_is_split_between_traces(protocol: str) -> None:
    """A trace that is too large by itself is refused, and no other."""
    traces = [encoded(spans) for spans in (2, 1, 4, 9, 3, 1, 1, 5, 2)]
    with serving(protocol, limited(protocol, 5)) as server:
        sender = sender_to(server.url, protocol, limits=Limits(delay_s=60))
        sender.send(traces)
        assert sender.flush(WAIT_S)
        stats = sender.close()
    assert lost(stats) == {Fate.REFUSED: (9, 1)}
    assert is_final(stats)
    assert arrived(server.taken) == ids(trace for trace in traces if trace.span_count <= 5)


def to_server(answers: bool, passed: int) -> bool:
    return not answers and passed > 2000


def cut_when_taken(server: Server) -> Cut:
    return lambda answers, _passed: answers and bool(server.taken)


@pytest.mark.parametrize("protocol", BOTH)
@pytest.mark.parametrize("where", ["request", "answer"])
def test_a_connection_that_is_reset(protocol: str, where: str) -> None:
    """In the middle of the request it arrives once; in the middle of the answer twice, for nobody can know."""
    traces = [encoded(2, padding_bytes=5000) for _ in range(TRACES)]
    with serving(protocol) as server:
        port = urlsplit(server.url).port or 0
        cut = to_server if where == "request" else cut_when_taken(server)
        with cut_wire(("127.0.0.1", port), cut) as wire:
            url = server.url.replace(str(port), str(wire.port))
            sender = sender_to(url, protocol, limits=LIMITS)
            sender.send(traces)
            assert sender.flush(WAIT_S)
            stats = sender.close()
        assert wire.cuts == 1
    assert stats[Fate.SENT].traces == TRACES
    assert is_final(stats)
    taken = arrived(server.taken)
    assert set(taken) == set(ids(traces))
    assert taken.total() == TRACES + (5 if where == "answer" else 0)


@pytest.mark.parametrize("protocol", BOTH)
def test_an_endpoint_that_is_dead_and_comes_back(protocol: str, caplog: pytest.LogCaptureFixture) -> None:
    """Everything waits for it, and arrives once."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        path = "/v1/traces" if protocol == HTTP else ""
        sender = sender_to(f"http://127.0.0.1:{port}{path}", protocol, limits=LIMITS)
        traces = many(TRACES)
        sender.send(traces)
        until(lambda: bool(caplog.messages))
        assert not sender.flush(0.1)
        assert sender.stats[Fate.WAITING] == (TRACES * SPANS, TRACES)
    with serving(protocol, port=port) as server:
        assert sender.flush(WAIT_S)
        assert is_final(sender.close())
    assert arrived(server.taken) == ids(traces)
    assert "traces are not getting through" in caplog.messages[0]
    assert "traces are sent again" in caplog.messages[-1]


@pytest.mark.parametrize("protocol", BOTH)
def test_a_name_that_nobody_knows(protocol: str, caplog: pytest.LogCaptureFixture) -> None:
    sender = sender_to("http://otel-qemu.invalid:4317/v1/traces", protocol, limits=LIMITS)
    sender.send(many(TRACES))
    until(lambda: bool(caplog.messages))
    stats = sender.close(1)
    assert lost(stats) == {Fate.AT_CLOSE: (TRACES * SPANS, TRACES)}
    assert is_final(stats)
    assert "otel-qemu.invalid" in caplog.messages[0]


@pytest.mark.parametrize("protocol", BOTH)
def test_something_else_that_listens(protocol: str) -> None:
    """An SSH server, say: what it says is no answer, and what waits is kept until the close."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(WAIT_S)
        sender = sender_to(f"http://127.0.0.1:{listener.getsockname()[1]}", protocol, limits=LIMITS)
        sender.send(many(TRACES))
        for _ in range(3):
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
        stats = sender.close(0.5)
    assert lost(stats) == {Fate.AT_CLOSE: (TRACES * SPANS, TRACES)}
    assert is_final(stats)


def bytes_on_the_wire(protocol: str, gzip: bool) -> int:
    """What one request of compressible traces takes to get to the server."""
    passed: list[int] = [0]

    def count(answers: bool, so_far: int) -> bool:
        passed.append(0 if answers else so_far)
        return False

    with serving(protocol) as server:
        port = urlsplit(server.url).port or 0
        with cut_wire(("127.0.0.1", port), count) as wire:
            sender = sender_to(server.url.replace(str(port), str(wire.port)), protocol, gzip=gzip)
            sender.send([encoded(2, padding_bytes=20_000)])
            assert sender.flush(WAIT_S)
            sender.close()
    assert arrived(server.taken).total() == 1
    return max(passed)


@pytest.mark.parametrize("protocol", BOTH)
def test_compression_is_as_it_was_asked_for(protocol: str) -> None:
    assert bytes_on_the_wire(protocol, gzip=True) * 4 < bytes_on_the_wire(protocol, gzip=False)


def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(HTTP) as server:
        monkeypatch.setenv("http_proxy", server.url)
        sender = sender_to("http://otel-qemu.invalid/v1/traces", HTTP)
        sender.send(many(1))
        assert sender.flush(WAIT_S)
        sender.close()
    assert server.headers[0]["host"] == "otel-qemu.invalid"


@pytest.mark.parametrize("protocol", BOTH)
def test_headers_go_with_each_request(protocol: str) -> None:
    with serving(protocol) as server:
        sender = sender_to(server.url, protocol, headers=(("x-scope-orgid", "tenant"), ("x-bin", "ab")))
        sender.send(many(1))
        assert sender.flush(WAIT_S)
        sender.close()
    (headers,) = server.headers
    assert headers["x-scope-orgid"] == "tenant"
    assert "x-bin" in headers
    assert headers["user-agent"].startswith("otel-qemu/")
