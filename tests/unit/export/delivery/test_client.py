# SPDX-License-Identifier: Apache-2.0
"""The client as its callers see it: what arrives, what is said, how it ends."""

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_qemu.export.delivery.client import TraceClient
from otel_qemu.export.delivery.fates import Fate
from otel_qemu.export.delivery.limits import Limits
from otel_qemu.export.spans.encoded import EncodedTrace
from otel_qemu.export.transport.answer import Answer, Outcome
from otel_qemu.export.transport.destination import Destination
from tests.support.encoded_traces import arrived, encoded, ids, many, span_count
from tests.support.ledgers import is_conserved
from tests.support.otlp_server import GRPC, HTTP, Reply, serving
from tests.support.sending import LIMITS, WAIT_S, is_final, queue_of, requests_of, sender_to, until


class Scripted:
    """A transport that gives these answers, or raises them, and then says yes."""

    def __init__(self, *answers: Answer | Exception) -> None:
        self.answers = list(answers)
        self.bodies: list[bytes] = []

    def send(self, body: bytes) -> Answer:
        self.bodies.append(body)
        answer = self.answers.pop(0) if self.answers else Answer(Outcome.SENT)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        raise OSError("and again")


class Hanging:
    """A transport that never comes back, whatever is closed."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.answer = threading.Event()

    def send(self, body: bytes) -> Answer:
        self.asked.set()
        self.answer.wait(WAIT_S)
        return Answer(Outcome.SENT)

    def close(self) -> None:
        pass


def client(transport: Scripted | Hanging, limits: Limits = LIMITS, warn_interval_s: float = 60.0) -> TraceClient:
    return TraceClient(Destination(transport, "fake"), limits, warn_interval_s=warn_interval_s)


@pytest.mark.parametrize("protocol", [GRPC, HTTP])
def test_requests_hold_whole_traces_and_few_spans(protocol: str) -> None:
    traces = many(43, spans=3)
    with serving(protocol) as server:
        sender = sender_to(server.url, protocol, limits=Limits(request=requests_of(20), delay_s=60))
        sender.send(traces)
        assert is_final(sender.close(WAIT_S))
    assert arrived(server.taken) == ids(traces)
    assert max(map(span_count, server.taken)) <= 20


@pytest.mark.parametrize("protocol", [GRPC, HTTP])
def test_requests_stay_below_what_grpc_servers_take(protocol: str) -> None:
    """4 MiB, before compression, by default; 12 MB go in three."""
    traces = [encoded(2, padding_bytes=30_000) for _ in range(200)]
    with serving(protocol) as server:
        sender = sender_to(server.url, protocol, limits=Limits(request=requests_of(100_000), delay_s=60))
        sender.send(traces)
        assert sender.close(WAIT_S)[Fate.SENT].traces == 200
    assert arrived(server.taken) == ids(traces)
    assert max(server.sizes_bytes) < 4 << 20
    assert len(server.sizes_bytes) == 3


def test_few_spans_wait_for_others_but_not_for_long() -> None:
    transport = Scripted()
    sender = client(transport, Limits(delay_s=0.3))
    for _ in range(3):
        sender.send(many(6))
    until(lambda: sender.stats[Fate.SENT].traces == 18)
    assert len(transport.bodies) == 1
    sender.close()


def test_a_full_request_does_not_wait() -> None:
    transport = Scripted()
    sender = client(transport, Limits(request=requests_of(100), delay_s=1e6))
    sender.send(many(49))
    sender.send(many(3))
    until(lambda: sender.stats[Fate.SENT].spans == 100)
    assert sender.stats[Fate.WAITING].spans == 4
    sender.close()


def test_what_was_sent_is_told_and_a_hook_that_raises_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Traces of a request that was taken as a whole; of a partial success nobody knows which they were."""
    told: list[EncodedTrace] = []

    def hook(traces: Sequence[EncodedTrace]) -> None:
        told.extend(traces)
        raise RuntimeError("of the hook")

    rounds = [many(2) for _ in range(4)]
    transport = Scripted(Answer(Outcome.SENT), Answer(Outcome.SENT, "old", 1), Answer(Outcome.REFUSED, "no"))
    sender = TraceClient(Destination(transport, "fake"), LIMITS, on_sent=hook)
    for traces in rounds:
        sender.send(traces)
        assert sender.flush(WAIT_S)
    sender.close()
    assert told == rounds[0] + rounds[3]
    assert "of the hook" in caplog.text


def test_what_raises_costs_its_own_request_only(caplog: pytest.LogCaptureFixture) -> None:
    """A transport that raises."""
    sender = client(Scripted(RuntimeError("boom\n")))
    for traces in (many(1), many(3)):
        sender.send(traces)
        assert sender.flush(WAIT_S)
    stats = sender.close()
    assert (stats[Fate.FAILED].traces, stats[Fate.FAILED].spans) == (1, 2)
    assert stats[Fate.SENT].traces == 3
    assert is_final(stats)
    assert "RuntimeError: boom" in caplog.messages[0]
    assert caplog.messages[0].isprintable()


class Wrong(Scripted):
    """Gives no answer to the first two requests, which no transport may."""

    def send(self, body: bytes) -> Any:
        answer = super().send(body)
        return answer if len(self.bodies) > 2 else None


def test_a_defect_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """What was on its way is tried again."""
    sender = client(Wrong())
    sender.send(many(3))
    assert sender.flush(WAIT_S)
    assert sender.close()[Fate.SENT].traces == 3
    assert caplog.messages == ["sending traces has failed"] * 2


def test_a_request_that_is_never_taken_does_not_hold_up_the_others() -> None:
    """It goes behind them; in the end it is counted."""
    poison = encoded(1)
    others = many(30)

    class Choosy(Scripted):
        def send(self, body: bytes) -> Answer:
            return Answer(Outcome.RETRY, "502") if poison.trace_id in body else super().send(body)

    sender = client(Choosy(), Limits(request=requests_of(2), delay_s=0, first_pause_s=0.01, longest_pause_s=0.02))
    sender.send([poison, *others])
    until(lambda: sender.stats[Fate.SENT].traces == 30)
    stats = sender.close(0.2)
    assert (stats[Fate.SENT].traces, stats[Fate.AT_CLOSE].traces) == (30, 1)


ANSWERS = st.sampled_from(
    [
        Answer(Outcome.SENT),
        Answer(Outcome.SENT, "some", 1),
        Answer(Outcome.SENT, "more than there are", 99),
        Answer(Outcome.RETRY, "later"),
        Answer(Outcome.TOO_LARGE, "413"),
        Answer(Outcome.REFUSED, "never"),
        RuntimeError("a defect"),
    ]
)


@settings(max_examples=40, deadline=None)
@given(
    answers=st.lists(ANSWERS, max_size=12),
    sizes=st.lists(st.integers(1, 9), max_size=12),
    room=st.integers(1, 60),
)
def test_whatever_the_endpoint_says_every_trace_has_one_fate(
    answers: list[Answer | Exception], sizes: list[int], room: int
) -> None:
    """What is reported as sent was sent, as a whole, once."""
    told: list[EncodedTrace] = []
    transport = Scripted(*answers)
    limits = Limits(queue_of(room), requests_of(10), 0, first_pause_s=0.001, longest_pause_s=0.002)
    sender = TraceClient(Destination(transport, "fake"), limits, on_sent=told.extend)
    for spans in sizes:
        sender.send([encoded(spans)])
        assert is_conserved(sender.stats)
    until(lambda: not sender.stats[Fate.WAITING].spans)
    stats = sender.close()
    assert is_final(stats)
    assert stats.produced == (sum(sizes), len(sizes))
    assert len({trace.trace_id for trace in told}) == len(told) <= stats[Fate.SENT].traces
    bodies = b"".join(transport.bodies)
    assert all(trace.trace_id in bodies for trace in told)


def test_a_transport_that_hangs_cannot_hold_up_the_close() -> None:
    """A late answer changes no final count, and calls after the close do nothing but count."""
    transport = Hanging()
    sender = client(transport)
    sender.send(many(4))
    assert transport.asked.wait(WAIT_S)
    ended = threading.Event()

    def close() -> None:
        sender.close(0.2)
        ended.set()

    threading.Thread(target=close, daemon=True).start()
    assert ended.wait(WAIT_S)  # the transport would have taken as long
    stats = sender.stats
    assert stats[Fate.AT_CLOSE].traces == 4
    transport.answer.set()
    until(lambda: not any(thread.name == "export" for thread in threading.enumerate()))
    assert sender.stats == stats == sender.close()
    sender.send(many(3))
    assert sender.stats[Fate.AT_CLOSE].traces == 7
    assert is_final(sender.stats)


def test_the_close_sends_what_can_be_sent() -> None:
    """It tries at once what waits for its next try."""
    transport = Scripted(Answer(Outcome.RETRY, "not now"))
    sender = client(transport, Limits(delay_s=0, first_pause_s=1e6, longest_pause_s=1e6))
    sender.send(many(5))
    until(lambda: len(transport.bodies) == 1)
    assert sender.close(WAIT_S)[Fate.SENT].traces == 5


def test_the_close_respects_a_pause_that_was_asked_for() -> None:
    transport = Scripted(Answer(Outcome.RETRY, "busy", retry_after_s=1e6))
    sender = client(transport)
    sender.send(many(5))
    until(lambda: len(transport.bodies) == 1)
    assert sender.close(0.2)[Fate.AT_CLOSE].traces == 5
    assert len(transport.bodies) == 1


def test_losses_and_their_end_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    refusals = [Answer(Outcome.REFUSED, "HTTP 401 Unauthorized")] * 3
    sender = client(Scripted(*refusals))
    for _ in range(5):
        sender.send(many(2))
        assert sender.flush(WAIT_S)
    stats = sender.close()
    assert stats[Fate.REFUSED].spans == 12
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    first, again = caplog.messages
    assert first == (
        "traces are being lost: endpoint fake: 4 spans lost so far (refused 4), 0 wait; "
        "last reason: HTTP 401 Unauthorized"
    )
    assert again == "traces are sent again: endpoint fake"


def test_losses_are_said_again_after_the_interval(caplog: pytest.LogCaptureFixture) -> None:
    sender = client(Scripted(*[Answer(Outcome.REFUSED, "no")] * 100), warn_interval_s=0.1)
    for _ in range(2):
        sender.send(many(1))
        assert sender.flush(WAIT_S)
    until(lambda: len(caplog.records) == 2)
    sender.flush(0)
    sender.close()
    assert caplog.messages[-1].startswith("traces are being lost: endpoint fake: 4 spans lost so far (refused 4)")


def test_an_endpoint_that_is_away_is_said_before_anything_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    sender = client(Scripted(Answer(Outcome.RETRY, "UNAVAILABLE")))
    sender.send(many(2))
    assert sender.flush(WAIT_S)
    sender.close()
    assert caplog.messages == [
        "traces are not getting through: endpoint fake: 0 spans lost so far, 4 wait; last reason: UNAVAILABLE",
        "traces are sent again: endpoint fake",
    ]


def test_the_reason_of_a_rejection_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """The endpoint's words for what it did not take of a request that it took."""
    sender = client(Scripted(Answer(Outcome.SENT, "too old", 1)))
    sender.send(many(2))
    assert sender.flush(WAIT_S)
    sender.close()
    assert caplog.messages[0].endswith("1 spans lost so far (rejected 1), 0 wait; last reason: rejected: too old")


def test_requests_learn_from_one_that_was_too_large() -> None:
    """It goes in halves, and those of halves; the next are no larger than what was taken in the end."""

    class Small(Scripted):
        def send(self, body: bytes) -> Answer:
            super().send(body)
            return Answer(Outcome.TOO_LARGE if len(body) > 400_000 else Outcome.SENT)

    transport = Small()
    sender = client(transport, Limits(request=requests_of(10_000), delay_s=60))
    for _ in range(2):
        sender.send([encoded(1, padding_bytes=50_000) for _ in range(40)])
        assert sender.flush(WAIT_S)
    assert sender.close()[Fate.SENT].traces == 80
    sizes = [len(body) for body in transport.bodies]
    too_large = [size for size in sizes if size > 400_000]
    assert (len(too_large), sizes.index(max(sizes))) == (1 + 2 + 4, 0)
    assert max(sizes[7 + 8 :]) <= 400_000


@pytest.mark.parametrize("protocol", [GRPC, HTTP])
def test_an_endpoint_that_never_answers_stalls_nobody(protocol: str) -> None:
    """While a request is known to hang, sending goes on, and counts at every moment."""

    def never(*_: object) -> Reply:
        return Reply(silent=True, takes=False)

    with serving(protocol, never) as server:
        sender = sender_to(server.url, protocol, timeout_s=600, limits=Limits(queue=queue_of(100), delay_s=0))
        sender.send(many(4))
        until(lambda: len(server.arrivals_s) == 1)
        for _ in range(50):
            sender.send(many(5))
            assert is_conserved(sender.stats)
            assert sender.stats[Fate.WAITING].spans <= 100
        began_s = time.monotonic()
        stats = sender.close(1)
        assert time.monotonic() - began_s < 60  # of the 600 that the request would take
    assert (stats[Fate.SENT].traces, stats[Fate.AT_CLOSE].spans) == (0, 100)
    assert is_final(stats)
