# SPDX-License-Identifier: Apache-2.0
"""
Many sidecars' traffic: a thread and a connection for each and signal, in a few processes, each request at its time.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from typing import Self

from bench.fleet_requests import TraceTemplate, metrics_request
from otel_qemu.export.transport.answer import Outcome
from otel_qemu.export.transport.endpoint import HTTP, Endpoint, Signal
from otel_qemu.export.transport.http import HttpTransport


@dataclass(frozen=True)
class Load:
    """
    What each sidecar sends.

    Attributes:
        traces: in each request; 0: none.
        guests: with one disk each, in each request with metrics; 0: none.
        traces_every_s: interval between requests with traces.
        metrics_every_s: so often one with metrics.
    """

    traces: int
    guests: int
    traces_every_s: float
    metrics_every_s: float


@dataclass
class Sent:
    """
    What was sent, and what became of it.

    Attributes:
        requests: that were accepted.
        failed: that were not, whatever the reason.
        spans, data_points: in the accepted ones.
        body_bytes: of all requests, before compression.
        answer_s: how long each answer took.
        late_s: how late each request was begun.
    """

    requests: int = 0
    failed: int = 0
    spans: int = 0
    data_points: int = 0
    body_bytes: int = 0
    answer_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)

    @classmethod
    def all_of(cls, several: Iterable[Self]) -> Self:
        """Everything together."""
        total = cls()
        for one in several:
            for each in fields(cls):
                setattr(total, each.name, getattr(total, each.name) + getattr(one, each.name))
        return total


def send_load(
    url: str, captured: list[bytes], sidecars: int, load: Load, duration_s: float, processes: int = 4
) -> Sent:
    """
    Send for a while.

    Args:
        url: the Collector's OTLP over HTTP.
        captured: requests of the export, of which traces are made.
        sidecars: how many, each with a connection of its own for each signal.
        load: of each.
        duration_s: how long to send.
        processes: that share the sidecars.
    """
    numbers = [range(process, sidecars, processes) for process in range(processes)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        parts = [(url, captured, list(some), sidecars, load, duration_s) for some in numbers]
        return Sent.all_of(pool.starmap(_send_some, parts))


def _send_some(
    url: str, captured: list[bytes], numbers: list[int], sidecars: int, load: Load, duration_s: float
) -> Sent:
    """The sidecars of one process; they begin spread over their interval, as hypervisors do."""
    streams = [stream for number in numbers for stream in _streams(captured, number, number / sidecars, load)]
    begin = time.monotonic() + 1.0  # by then all threads are there
    with ThreadPoolExecutor(len(streams)) as pool:
        return Sent.all_of(pool.map(lambda stream: stream.run(url, begin, duration_s), streams))


@dataclass(frozen=True)
class _Stream:
    """
    One signal of one sidecar.

    Attributes:
        signal: what it is.
        request: makes one: its body, spans and data points.
        every_s: so often.
        first_s: after the beginning.
    """

    signal: Signal
    request: Callable[[], tuple[bytes, int, int]]
    every_s: float
    first_s: float

    def run(self, url: str, begin: float, duration_s: float) -> Sent:
        """Send, each request at its time, and none before the last was answered."""
        sent = Sent()
        transport = HttpTransport(Endpoint(self.signal, HTTP, f"{url}/v1/{self.signal}", gzip=True))
        at = begin + self.first_s
        while at < begin + duration_s:
            time.sleep(max(0.0, at - time.monotonic()))
            sent.late_s.append(time.monotonic() - at)
            self._send_one(transport, sent)
            at += self.every_s
        transport.close()
        return sent

    def _send_one(self, transport: HttpTransport, sent: Sent) -> None:
        body, spans, data_points = self.request()
        begun = time.monotonic()
        answer = transport.send(body)
        sent.answer_s.append(time.monotonic() - begun)
        sent.body_bytes += len(body)
        if answer.outcome is Outcome.SENT and not answer.rejected:
            sent.requests += 1
            sent.spans += spans
            sent.data_points += data_points
        else:
            sent.failed += 1


def _streams(captured: list[bytes], number: int, phase: float, load: Load) -> Iterator[_Stream]:
    host = f"hypervisor-{number}"
    if load.traces:
        template = TraceTemplate(captured, load.traces, host)
        every_s = load.traces_every_s
        yield _Stream(Signal.TRACES, lambda: (template.fresh(), template.spans, 0), every_s, phase * every_s)
    if load.guests:
        body, points = metrics_request(captured, load.guests, host)
        every_s = load.metrics_every_s
        yield _Stream(Signal.METRICS, lambda: (body, 0, points), every_s, phase * every_s)
