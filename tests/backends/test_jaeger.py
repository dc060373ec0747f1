# SPDX-License-Identifier: Apache-2.0
"""
A real Jaeger gives back, through /api/v3, exactly the spans that the SDK's exporters sent to it.
"""

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from .daemon import launched
from .jaeger import BackendFailed, Jaeger, Ports, PortTaken, QueryFailed, Reader, Span, Trace, wait_for
from .query import is_up
from .spans import family, send

MINUTE_NS = 60_000_000_000


def around(span: Span) -> tuple[int, int]:
    return span.start_unix_ns - MINUTE_NS, span.end_unix_ns + MINUTE_NS


@contextlib.contextmanager
def listener(port: int) -> Iterator[None]:
    with socket.create_server(("127.0.0.1", port)):
        yield


def fake(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_two_spans_come_back_field_by_field(jaeger: Jaeger, service: str, protocol: str) -> None:
    """Every field of parent and child, found by id and by search, equals what was sent."""
    made = family(service)
    send(jaeger, protocol, *made.sent)
    expected = Trace(made.trace_id, made.expected)
    assert jaeger.trace(made.trace_id) == expected
    assert jaeger.traces(service, *around(made.expected[0])) == [expected]
    parent, child = made.expected
    assert expected.roots == (parent,)
    assert expected.children(parent) == (child,)
    assert child.duration_ns == 3_999_996


def test_values_keep_their_types(jaeger: Jaeger, service: str) -> None:
    """2.0 is no int, True is no 1, as `==` would have it."""
    made = family(service)
    send(jaeger, "http", *made.sent)
    trace = jaeger.trace(made.trace_id)
    assert trace is not None
    types = {key: type(value) for key, value in trace.spans[0].attributes.items()}
    assert types == {key: type(value) for key, value in made.expected[0].attributes.items()}


def test_spans_of_two_exports_are_one_trace(jaeger: Jaeger, service: str) -> None:
    """The child sent first by one protocol and the parent by the other are joined; sent twice, kept twice."""
    made = family(service)
    parent, child = made.sent
    send(jaeger, "grpc", child)
    send(jaeger, "http", parent, parent)
    expected = (made.expected[0], made.expected[0], made.expected[1])
    assert jaeger.traces(service, *around(made.expected[0])) == [Trace(made.trace_id, expected)]


def test_search_selects_by_service_operation_time_and_limit(jaeger: Jaeger, service: str) -> None:
    """Each condition takes away what does not meet it, to the nanosecond."""
    made = [family(service) for _ in range(3)]
    for each in made:
        send(jaeger, "http", *each.sent)
    first = made[0].expected[0].start_unix_ns
    window = (first, first + MINUTE_NS)
    assert [t.trace_id for t in jaeger.traces(service, *window)] == [each.trace_id for each in made]
    assert len(jaeger.traces(service, *window, operation="rbd.aio_write")) == 3
    assert len(jaeger.traces(service, *window, limit=2)) == 2
    assert jaeger.traces(service, *window, operation="READ") == []
    assert jaeger.traces("nobody", *window) == []
    assert jaeger.traces(service, 0, first - 1) == []
    assert service in jaeger.services()


def test_unknown_trace_is_none_and_a_bad_question_an_error(jaeger: Jaeger) -> None:
    """Not found is an answer; what Jaeger refuses is raised with its reason."""
    assert jaeger.trace("00000000000000000000000000000001") is None
    with pytest.raises(QueryFailed, match="malformed parameter trace_id"):
        jaeger.trace("xyz")
    with pytest.raises(QueryFailed, match="search depth"):
        jaeger.traces("any", 0, MINUTE_NS, limit=0)


def test_stops_and_starts_again_on_the_same_ports(binary: Path, tmp_path: Path) -> None:
    """During an outage nobody answers; afterwards the same endpoints do, with an empty memory."""
    with Jaeger.start(binary, tmp_path) as jaeger:
        send(jaeger, "http", *family("before").sent)
        jaeger.stop()
        jaeger.stop()
        assert not is_up(f"{jaeger.health}/status")
        with pytest.raises(OSError, match="refused"):
            jaeger.services()
        jaeger.launch()
        send(jaeger, "grpc", *family("after").sent)
        assert Reader(jaeger.query).services() == ["after"]
    assert jaeger.process is None


def test_it_traces_nothing_of_itself(binary: Path, tmp_path: Path) -> None:
    """Its default is to send spans of its own to port 4317, and then to wait 10 s for them at its end."""
    with Jaeger.start(binary, tmp_path) as jaeger:
        assert jaeger.services() == []
        stopped = time.monotonic()
        jaeger.stop()
        assert time.monotonic() - stopped < 9
        assert "4317" not in jaeger.log.read_text()


def test_a_taken_port_is_named_and_leaves_no_process(binary: Path, tmp_path: Path) -> None:
    """Launching on given ports fails with the tail of the log, wherever the foreign listener sits."""
    jaeger = Jaeger(binary, tmp_path, Ports.free())
    for port in (jaeger.ports.otlp_grpc, jaeger.ports.query):
        with listener(port), pytest.raises(PortTaken, match=f"{port}: bind: address already in use"):
            jaeger.launch()
        assert jaeger.process is None


def test_start_moves_to_other_ports(binary: Path, tmp_path: Path) -> None:
    """A port that was taken between choosing and listening costs a try, not the start."""
    taken, free = Ports.free(), Ports.free()
    choices = iter([taken, free])
    with listener(taken.otlp_http), launched(lambda: Jaeger(binary, tmp_path, next(choices))) as jaeger:
        assert jaeger.ports == free


def test_a_start_that_fails_shows_the_end_of_its_log(tmp_path: Path) -> None:
    """What the process said last is in the error."""
    broken = fake(tmp_path / "broken", "for i in $(seq 30); do echo line $i; done; exit 7")
    with pytest.raises(BackendFailed, match="code 7") as failed:
        Jaeger.start(broken, tmp_path)
    assert str(failed.value).endswith("line 29\nline 30\n")
    assert "line 10\n" not in str(failed.value)


class Hasty(Jaeger):
    start_timeout_s = 0.5
    stop_timeout_s = 0.2
    pids: ClassVar[list[int]] = []

    def stop(self) -> None:
        self.pids.extend([self.process.pid] if self.process else [])
        super().stop()


def test_one_that_never_gets_ready_is_ended(tmp_path: Path) -> None:
    """The wait has an end, and so has a process that ignores SIGTERM."""
    deaf = fake(tmp_path / "deaf", "trap '' TERM; exec sleep 1000")
    with pytest.raises(BackendFailed, match="in vain for Jaeger to be ready"):
        Hasty.start(deaf, tmp_path)
    (pid,) = Hasty.pids
    assert not Path("/proc", str(pid)).exists()


def test_wait_for_returns_the_answer_or_gives_up() -> None:
    """It asks until the answer is true, and no longer than told."""
    answers = iter([0, None, "", 23])
    assert wait_for(lambda: next(answers), timeout_s=5) == 23
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"0\.1 s in vain for a miracle"):
        wait_for(lambda: False, timeout_s=0.1, what="a miracle")
    assert time.monotonic() - started < 30
