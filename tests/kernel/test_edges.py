"""Attaching to a guest that is busy, and leaving it: what is taken is seen from its beginning to its end."""

import time
from collections.abc import Iterator

import numpy as np
import pytest

from otel_qemu.events import Batch, Ending
from otel_qemu.probe.attach import MULTI, PERF
from otel_qemu.probe.keeping import EVERYTHING
from otel_qemu.probe.tracer import Tracer
from otel_qemu.service import Intervals, Service
from otel_qemu.trace.histograms import HistogramRow
from otel_qemu.trace.names import Names
from otel_qemu.trace.traces import Join, Traces
from tests.kernel.fake.build import QEMU_7_2
from tests.kernel.fake_qemu import FakeQemu
from tests.kernel.tracing import Those, Tracing

WINDOWS = 50
WINDOW_S = 0.03
QUICK = Intervals(drain_s=0.01)


class Window(Service):
    """The service over a busy guest for a moment, with a program that is loaded already; a sink of its own."""

    def __init__(self, qemu: FakeQemu, route: str) -> None:
        super().__init__(Those(qemu), [self], EVERYTHING, intervals=QUICK)
        self.tracing = Tracing(qemu, route=route)
        self.endings: list[int] = []
        self.reasons: list[int] = []

    def _tracer(self) -> Tracer:
        return self.tracing.tracer

    def take(self, _batch: Batch, traces: Traces, _names: Names) -> None:
        """What every sink is given."""
        self.endings += traces.requests["ending"].tolist()
        self.reasons += traces.orphans["join"].tolist()

    def counted(self) -> dict[str, int]:
        """What the counters have gone up by in this window."""
        before = self.tracing._before
        return {name: value - before[name] for name, value in self.counters.items()}

    def rows(self, layer: str) -> list[HistogramRow]:
        """The kernel's histograms of one layer."""
        return [row for row in self.histograms.rows(self.names) if row.layer == layer]


@pytest.fixture(scope="module")
def busy() -> Iterator[FakeQemu]:
    """Flat out, 32 requests in flight at any time."""
    with FakeQemu(QEMU_7_2) as qemu:
        qemu.begin("rate 0 600")
        yield qemu
        qemu.stop()


@pytest.mark.parametrize("route", [MULTI, PERF])
def test_fifty_windows_on_a_busy_guest_lose_nothing(busy: FakeQemu, route: str) -> None:
    """None looks lost; all that was taken has ended and is in the histograms; and no call comes without its request."""
    for number in range(WINDOWS):
        window = Window(busy, route)
        window.run(WINDOW_S)
        counted = window.counted()
        assert Ending.LOST not in window.endings, f"window {number}"
        assert (counted["scsi_end_lost"], counted["rbd_end_lost"]) == (0, 0), f"window {number}"
        assert counted["scsi_submitted"] == counted["scsi_completed"] == len(window.endings) > 32
        assert counted["rbd_submitted"] == counted["rbd_completed"]
        assert window.still_in_flight == (0, 0)
        assert sum(row.count for row in window.rows("scsi")) == counted["scsi_completed"]
        assert sum(row.count for row in window.rows("rbd")) == counted["rbd_completed"]
        # Calls of requests that were in flight when we came: no more than a guest has in flight.
        assert set(window.reasons) <= {Join.STARTED_BEFORE, Join.INTERNAL}
        assert len(window.reasons) == counted["rbd_submitted"] - counted["scsi_submitted"] <= 32


def test_what_does_not_end_is_counted_as_in_flight() -> None:
    """A cluster that does not answer: it is waited for, for as long as the interval says; then both sides are told."""
    with FakeQemu() as qemu:
        window = Window(qemu, MULTI)
        qemu.command("read 23 4096 8")
        with window.tracing as tracing:
            qemu.command("hold")
            qemu.command("read 211 4096")
            qemu.command("orphan 5")
            began_s = time.monotonic()
            window._let_end(tracing.tracer)
            assert QUICK.end_s <= time.monotonic() - began_s < 2
            assert window.still_in_flight == (211, 216)
            assert not np.isin(window.endings, [Ending.LOST]).any()
            qemu.command("release-held")
            assert tracing.tracer.still_in_flight() == (211, 216)
            counted = tracing.counted()
    assert (counted["scsi_submitted"], counted["rbd_submitted"]) == (211, 216)
    assert "scsi_completed" not in counted


def test_a_process_that_is_taken_anew_begins_anew() -> None:
    """librbd is loaded under requests in flight, whose calls may have been missed: they are dropped, and counted."""
    with FakeQemu(rbd=False) as qemu, Tracing(qemu) as tracing:
        qemu.load_rbd()
        qemu.command("hold")
        qemu.command("read 211 4096")
        assert tracing.tracer.still_in_flight() == (211, 0)
        tracing.tracer.refresh()
        assert (tracing.tracer.still_in_flight(), tracing.tracer.abandoned) == ((0, 0), 211)
        qemu.command("release-held")
        qemu.command("read 23 4096 8")
        traces = tracing.traces()
        assert traces.requests["ending"].tolist() == [Ending.COMPLETED] * 23
        assert len(traces.calls) == 23
