# SPDX-License-Identifier: Apache-2.0
"""What stands between us and an HTTP endpoint: connections that end, proxies, passwords, answers without end."""

import base64
import contextlib
import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from otel_qemu.errors import BadInput
from otel_qemu.export.transport.answer import Answer, Outcome
from otel_qemu.export.transport.endpoint import HTTP, Endpoint, Signal
from otel_qemu.export.transport.http import HttpTransport
from otel_qemu.export.transport.route import Route, route
from tests.children import join
from tests.support.encoded_traces import arrived, ids, many
from tests.support.made_certificates import Authority
from tests.support.otlp_server import Server, Tls, serving
from tests.support.sending import WAIT_S, sender_to

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
EMPTY_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def until_blank_line(connection: socket.socket) -> bytes:
    """The head of a request, and what came with it."""
    head = b""
    while b"\r\n\r\n" not in head and (more := connection.recv(4096)):
        head += more
    return head


@contextlib.contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port; `answer` is called with each connection, in a thread of its own."""

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            answer(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        join(thread)


def post(port: int, timeout_s: float = WAIT_S, times: int = 1, **of_endpoint: Any) -> list[Answer]:
    """What a transport makes of requests to a port."""
    transport = HttpTransport(
        Endpoint(Signal.TRACES, HTTP, f"http://127.0.0.1:{port}/v1/traces", timeout_s=timeout_s, **of_endpoint)
    )
    answers = [transport.send(b"") for _ in range(times)]
    transport.close()
    return answers


def test_a_connection_is_kept() -> None:
    """Ten requests over one."""
    connections = []

    def answer(connection: socket.socket) -> None:
        connections.append(connection)
        while until_blank_line(connection):
            connection.sendall(EMPTY_ANSWER)

    with listening(answer) as port:
        assert {each.outcome for each in post(port, times=10)} == {Outcome.SENT}
    assert len(connections) == 1


def test_a_connection_that_has_ended_is_made_anew() -> None:
    """An endpoint that ends idle connections costs no failed request."""
    ended = threading.Event()

    def answer(connection: socket.socket) -> None:
        until_blank_line(connection)
        connection.sendall(EMPTY_ANSWER)
        connection.shutdown(socket.SHUT_RDWR)
        ended.set()

    with listening(answer) as port:
        transport = HttpTransport(Endpoint(Signal.TRACES, HTTP, f"http://127.0.0.1:{port}/"))
        for _ in range(5):
            assert transport.send(b"").outcome is Outcome.SENT
            assert ended.wait(WAIT_S)
            ended.clear()
        transport.close()


@pytest.mark.parametrize("head", [b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"])
def test_an_answer_without_end_ends_at_the_timeout(head: bytes) -> None:
    """Although each byte of it comes in time."""
    enough = threading.Event()

    def answer(connection: socket.socket) -> None:
        until_blank_line(connection)
        connection.sendall(head)
        while not enough.wait(0.02):
            connection.sendall(b"\x0a")

    with listening(answer) as port:
        began_s = time.monotonic()
        (answered,) = post(port, timeout_s=0.3)
        passed_s = time.monotonic() - began_s
        enough.set()
    assert answered.outcome in (Outcome.RETRY, Outcome.REFUSED)
    assert passed_s < WAIT_S


@pytest.mark.parametrize("by_proxy", [False, True])
def test_a_connection_that_is_never_made_ends_at_the_timeout(by_proxy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although each byte of the handshake, or of the proxy's answer, comes in time."""
    enough = threading.Event()

    def answer(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: " if by_proxy else b"\x16\x03\x03\x3f\xff")  # a record of 16 KB
        while not enough.wait(0.02):
            connection.sendall(b"x")

    with listening(answer) as port:
        if by_proxy:
            monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        transport = HttpTransport(Endpoint(Signal.TRACES, HTTP, f"https://127.0.0.1:{port}/", timeout_s=0.3))
        answers: list[Answer] = []
        sending = threading.Thread(target=lambda: answers.append(transport.send(b"")), daemon=True)
        sending.start()
        sending.join(WAIT_S / 10)
        in_time = [each.outcome for each in answers]
        enough.set()
    assert in_time == [Outcome.RETRY]
    transport.close()


def test_a_slow_name_server_leaves_no_time_for_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """`getaddrinfo` stands for a resolver that answers after the timeout; the endpoint's answer would never end."""
    enough, resolve = threading.Event(), socket.getaddrinfo

    def resolve_slowly(*arguments: Any, **named: Any) -> Any:
        enough.wait(0.5)
        return resolve(*arguments, **named)

    def answer(connection: socket.socket) -> None:
        until_blank_line(connection)
        while not enough.wait(0.02):
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

    with listening(answer) as port:
        monkeypatch.setattr(socket, "getaddrinfo", resolve_slowly)
        answers: list[Answer] = []
        sending = threading.Thread(target=lambda: answers.extend(post(port, timeout_s=0.1)), daemon=True)
        sending.start()
        sending.join(WAIT_S / 10)
        in_time = [each.outcome for each in answers]
        enough.set()
    assert in_time == [Outcome.RETRY]


def test_an_answer_that_is_no_text_is_refused() -> None:
    """Though it begins as JSON does: something else listens there, and will not answer better the next time."""

    def answer(connection: socket.socket) -> None:
        until_blank_line(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{\xff")

    with listening(answer) as port:
        assert [each.outcome for each in post(port)] == [Outcome.REFUSED]


def test_an_answer_that_is_compressed_is_read() -> None:
    """Although none was asked for; one that is compressed amiss is no OTLP."""
    contents = [gzip.compress(b""), b"not gzip"]

    def answer(connection: socket.socket) -> None:
        while until_blank_line(connection):
            body = contents.pop(0)
            head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)

    with listening(answer) as port:
        assert [each.outcome for each in post(port, times=2)] == [Outcome.SENT, Outcome.REFUSED]


def test_a_refusal_before_the_end_of_the_request_is_read() -> None:
    """The endpoint says 413 and hangs up; what it said counts, not the broken pipe."""

    def answer(connection: socket.socket) -> None:
        until_blank_line(connection)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            pass

    with listening(answer) as port:
        transport = HttpTransport(Endpoint(Signal.TRACES, HTTP, f"http://127.0.0.1:{port}/"))
        assert transport.send(bytes(8 << 20)).outcome is Outcome.TOO_LARGE
        transport.close()


def test_a_password_in_the_endpoint_is_basic_authorization() -> None:
    """Unless there is a header; of two spellings of a header one is sent."""
    pair = base64.b64encode(b"me:two words").decode()
    with serving(HTTP) as server:
        url = server.url.replace("//", "//me:two%20words@")
        for headers in ((), (("authorization", "Bearer 1"), ("user-agent", "mine"))):
            sender = sender_to(url, HTTP, headers=headers)
            sender.send(many(1))
            assert sender.flush(WAIT_S)
            sender.close()
    assert [each["authorization"] for each in server.headers] == [f"Basic {pair}", "Bearer 1"]
    assert server.headers[1]["user-agent"] == "mine"


@pytest.mark.parametrize(
    ("variables", "url", "expected"),
    [
        ({}, "http://a:1/v1/traces?x=1", Route("a", 1, "/v1/traces?x=1", {})),
        ({}, "https://a", Route("a", 443, "/", {})),
        ({}, "http://a/ä b%20c", Route("a", 80, "/%C3%A4%20b%20c", {})),
        ({"http_proxy": "http://p:3"}, "http://a:1/x", Route("p", 3, "http://a:1/x", {})),
        ({"all_proxy": "p"}, "http://a/x", Route("p", 80, "http://a/x", {})),
        ({"http_proxy": "http://p", "no_proxy": "a"}, "http://a:1/x", Route("a", 1, "/x", {})),
        ({"http_proxy": "http://p", "no_proxy": ".b"}, "http://c.b:1/x", Route("c.b", 1, "/x", {})),
        ({"https_proxy": "http://p:3"}, "http://a:1/x", Route("a", 1, "/x", {})),
        ({"https_proxy": "http://p:3"}, "https://a/x", Route("p", 3, "/x", {}, ("a", 443))),
        ({"https_proxy": "http://u:w@p:3"}, "https://a/x",
         Route("p", 3, "/x", {}, ("a", 443), {"proxy-authorization": "Basic dTp3"})),
        ({"http_proxy": "http://u:w@p:3"}, "http://u:w@a:1/x",
         Route("p", 3, "http://a:1/x", {"authorization": "Basic dTp3", "proxy-authorization": "Basic dTp3"})),
    ],
)  # fmt: skip
def test_routes(variables: dict[str, str], url: str, expected: Route, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert route(url) == expected


@pytest.mark.parametrize("url", ["http://p:99999", "http://p:port", "http://p q:1", "http://[::1", "p:0"])
def test_a_proxy_that_is_no_url_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start, by name."""
    monkeypatch.setenv("http_proxy", url)
    with pytest.raises(BadInput, match=r"^http_proxy is '.*': it must be a URL like http://proxy:3128"):
        HttpTransport(Endpoint(Signal.TRACES, HTTP, "http://collector:4318/"))


def test_a_proxy_that_is_no_http_proxy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start, by name, without its password."""
    monkeypatch.setenv("https_proxy", "socks5://me:secret@p:1")
    with pytest.raises(
        BadInput, match=r"^https_proxy is 'socks5://\*\*\*@p:1': it must be a URL like http://proxy:3128"
    ):
        route("https://collector/")


def test_tls_goes_through_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By CONNECT, with the proxy's password; the endpoint's certificate is what is believed."""
    asked: list[bytes] = []
    authority = Authority(tmp_path, "authority")
    pair = authority.sign("server")

    def tunnel(server: Server) -> Callable[[socket.socket], None]:
        port = int(server.url.split(":")[2].split("/")[0])

        def answer(connection: socket.socket) -> None:
            asked.append(until_blank_line(connection))
            with socket.create_connection(("127.0.0.1", port)) as endpoint:
                connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                back = threading.Thread(target=pump, args=(endpoint, connection), daemon=True)
                back.start()
                pump(connection, endpoint)
                join(back)

        return answer

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    traces = many(3)
    with serving(HTTP, tls=Tls(pair.certificate, pair.key)) as server, listening(tunnel(server)) as port:
        monkeypatch.setenv("https_proxy", f"http://me:pw@127.0.0.1:{port}")
        monkeypatch.setenv("no_proxy", "nobody")
        sender = sender_to(server.url, HTTP, certificate=authority.certificate)
        sender.send(traces)
        assert sender.flush(WAIT_S)
        sender.close()
    assert arrived(server.taken) == ids(traces)
    assert asked[0].startswith(b"CONNECT localhost:")
    assert b"proxy-authorization: Basic bWU6cHc=" in asked[0]
