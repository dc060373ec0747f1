# SPDX-License-Identifier: Apache-2.0
"""The loop without a kernel: what it says and when, how it waits for guests, and how it ends."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from otel_qemu.errors import NothingToTrace, NotPossible
from otel_qemu.events import COUNTERS, NO_RECORDS, Batch, Records
from otel_qemu.notify import Notifier
from otel_qemu.probe.child_process import Unwanted, finished
from otel_qemu.probe.selection import Selection
from otel_qemu.service import Intervals, Service
from otel_qemu.trace.histograms import Histograms
from otel_qemu.trace.kernel_histograms import SERIES
from otel_qemu.trace.measurements import ProcessCounts, Snapshot
from otel_qemu.trace.names import Names

QUICK = Intervals(drain_s=0.01, refresh_s=60.0, look_s=60.0, end_s=0.2)


class Nobody(Selection):
    """Finds no guest, and may say why."""

    def __init__(self, problem: str | None = None) -> None:
        super().__init__()
        self._libvirt.problem = problem

    def processes(self) -> dict[Any, Any]:
        return {}


class Idle:
    """A tracer that sees nothing."""

    route, probes, abandoned = "uprobe_multi", 0, 0

    def __init__(self) -> None:
        self.audited: list[int] = []
        self.inspections: list[Any] = []
        self.calls: list[str] = []
        self.in_flight_at_end: list[tuple[int, int]] = []

    def __enter__(self) -> "Idle":
        return self

    def __exit__(self, *_: object) -> None:
        self.calls.append("close")

    def refresh(self) -> list[ProcessCounts]:
        self.calls.append("refresh")
        return []

    def require_any(self) -> None:
        raise NothingToTrace("nothing")

    def read(self) -> Batch:
        self.calls.append("read")
        return Batch(NO_RECORDS, 0)

    def take_no_more(self) -> None:
        self.calls.append("take_no_more")

    def still_in_flight(self) -> tuple[int, int]:
        return self.in_flight_at_end.pop() if self.in_flight_at_end else (0, 0)

    def detach(self) -> None:
        self.calls.append("detach")

    def counts(self) -> list[ProcessCounts]:
        return []

    def in_flight(self) -> Records:
        return NO_RECORDS

    def counters(self) -> dict[str, int]:
        return dict.fromkeys(COUNTERS, 0)

    def series(self) -> Any:
        return np.zeros(0, SERIES)

    def histograms(self) -> Histograms:
        return Histograms()


class Told(Notifier):
    """Remembers what it would have sent."""

    def __init__(self) -> None:
        super().__init__({"NOTIFY_SOCKET": "/nonexistent"})
        self.states: list[str] = []

    def _send(self, state: str) -> None:
        self.states.append(state)


class Minute:
    """A meter that is never due."""

    def __init__(self) -> None:
        self.taken: list[Snapshot] = []

    def is_due(self) -> bool:
        return False

    def measure(self, snapshot: Snapshot) -> None:
        self.taken.append(snapshot)

    def depart(self, processes: Sequence[ProcessCounts], names: Names) -> None:
        raise AssertionError(processes, names)


@pytest.fixture
def tracer() -> Idle:
    """A tracer without a kernel."""
    return Idle()


def making(tracer: Idle) -> Callable[..., Any]:
    """Makes this tracer, for a service."""
    return lambda *_: tracer


@pytest.fixture
def handlers() -> Iterator[None]:
    """The handlers of signals are what they were."""
    numbers = signal.SIGINT, signal.SIGTERM
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before


def test_it_waits_and_is_alive_meanwhile(tracer: Idle) -> None:
    """Ready at once, for nothing keeps it from tracing; alive at every turn, however seldom guests are looked for."""
    told = Told()
    Service(Nobody(), [], intervals=QUICK, notifier=told, make_tracer=making(tracer)).run(duration_s=1.0, wait=True)
    assert told.states[0] == "READY=1"
    assert told.states[1] == "STATUS=waiting for a guest"
    assert told.states[-1] == "STOPPING=1"
    assert told.states.count("READY=1") == 1
    assert told.states.count("WATCHDOG=1") == len(told.states) - 3 > 1


def test_it_can_be_stopped_while_it_waits(tracer: Idle) -> None:
    """Then it has traced nothing, which is no error; meters learn that there will be no more."""
    minute = Minute()
    service = Service(Nobody(), [], meters=[minute], intervals=QUICK, make_tracer=making(tracer))
    thread = threading.Thread(target=service.run, kwargs={"wait": True}, daemon=True)
    thread.start()
    service.stop()
    thread.join(60)
    assert not thread.is_alive()
    assert tracer.calls[-3:] == ["detach", "read", "close"]
    assert [snapshot.last for snapshot in minute.taken] == [True]


class Reading(Idle):
    """A tracer that reads a large file, in a process of its own."""

    def refresh(self) -> list[ProcessCounts]:
        with pytest.raises(Unwanted):
            finished(["sleep", "600"], 600)
        return super().refresh()


def test_a_file_that_is_read_delays_neither_reports_nor_the_end() -> None:
    """A debug file may take a minute: the manager hears meanwhile that the loop is alive, and `stop` ends it."""
    tracer, told = Reading(), Told()
    service = Service(Nobody(), [], intervals=QUICK, notifier=told, make_tracer=making(tracer))
    thread = threading.Thread(target=service.run, kwargs={"wait": True}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while told.states.count("WATCHDOG=1\nEXTEND_TIMEOUT_USEC=30000000") < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert tracer.calls == []
    service.stop()
    thread.join(60)
    assert not thread.is_alive()
    assert tracer.calls[:1] == ["refresh"]
    assert tracer.calls[-1] == "close"


def test_what_keeps_it_from_tracing_is_said_before_there_is_a_guest() -> None:
    """Rights that are missing, and not when the first one comes."""

    def refuse(*_: object) -> Any:
        raise NotPossible("rights are missing")

    told = Told()
    with pytest.raises(NotPossible):
        Service(Nobody(), [], intervals=QUICK, notifier=told, make_tracer=refuse).run(duration_s=1.0, wait=True)
    assert told.states == []


def test_without_it_there_must_be_one(tracer: Idle) -> None:
    """As a person at a terminal wants it."""
    with patch("otel_qemu.service.require_rights"), pytest.raises(NothingToTrace):
        Service(Nobody(), [], make_tracer=making(tracer)).run()
    assert tracer.calls == []


def test_missing_rights_are_the_reason_why_no_guest_is_found(tracer: Idle) -> None:
    """Without rights the processes of other users are hidden, so "start a guest" would mislead."""
    refused = NotPossible("tracing needs CAP_SYS_PTRACE")
    with patch("otel_qemu.service.require_rights", side_effect=refused), pytest.raises(NotPossible):
        Service(Nobody(), [], make_tracer=making(tracer)).run()
    assert tracer.calls == []


def test_why_names_are_missing_is_told(tracer: Idle, caplog: pytest.LogCaptureFixture) -> None:
    """Also if it was so from the beginning; once, until it changes."""
    selection, told = Nobody("no libvirt"), Told()
    service = Service(selection, [], intervals=Intervals(0.01, 0.01, 0.01), notifier=told, make_tracer=making(tracer))
    with caplog.at_level(logging.WARNING):
        service.run(duration_s=1.0, wait=True)
    assert tracer.calls.count("refresh") > 2
    assert caplog.messages == ["no libvirt"]
    assert "STATUS=waiting for a guest: no libvirt" in told.states


def test_what_is_in_flight_at_the_end_is_waited_for(tracer: Idle) -> None:
    """Nothing new is taken before it is looked whether all has ended; the ring is read meanwhile, then all detached."""
    tracer.in_flight_at_end = [(0, 0), (0, 0), (0, 1), (2, 3)]
    service = Service(Nobody(), [], intervals=QUICK, make_tracer=making(tracer))
    service.run(duration_s=0, wait=True)
    assert tracer.calls == ["refresh", "take_no_more", "read", "read", "detach", "read", "close"]
    assert service.still_in_flight == (0, 0)


def test_what_does_not_end_is_waited_for_no_longer_than_so(tracer: Idle) -> None:
    """A second at most, whatever hangs; how much it was is known afterwards."""
    tracer.in_flight_at_end = [(2, 3)] * 1000
    service = Service(Nobody(), [], intervals=QUICK, make_tracer=making(tracer))
    began_s = time.monotonic()
    service.run(duration_s=0, wait=True)
    assert QUICK.end_s <= time.monotonic() - began_s < Intervals().end_s + 9
    assert service.still_in_flight == (2, 3)
    assert tracer.calls[-3:] == ["detach", "read", "close"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_starts_is_an_orderly_end(number: signal.Signals, tracer: Idle, handlers: None) -> None:
    """What is attached is detached, and sinks get what was seen; nothing is raised."""

    def signalled(*_: object) -> Any:
        os.kill(os.getpid(), number)
        return tracer

    began_s, minute = time.monotonic(), Minute()
    Service(Nobody(), [], meters=[minute], intervals=QUICK, make_tracer=signalled).run(duration_s=60, wait=True)
    assert time.monotonic() - began_s < 30
    assert tracer.calls == ["refresh", "take_no_more", "detach", "read", "close"]
    assert [snapshot.last for snapshot in minute.taken] == [True]
