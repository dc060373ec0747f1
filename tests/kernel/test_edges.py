# SPDX-License-Identifier: Apache-2.0
"""Attaching to a busy guest, and leaving it: every request that is taken is seen from its beginning to its end."""

import time
from collections.abc import Iterator

import pytest

from otel_qemu.events import Ending
from otel_qemu.probe.attach import MULTI, PERF
from tests.kernel.fake.build import QEMU_7_2
from tests.kernel.fake_qemu import FakeQemu
from tests.kernel.tracing import Those, Tracing
from tests.kernel.window import QUICK, Window

WINDOW_S = 0.03


@pytest.fixture(scope="module")
def busy() -> Iterator[FakeQemu]:
    """A QEMU at full load, with 32 requests in flight at any time."""
    with FakeQemu(QEMU_7_2) as qemu:
        qemu.begin("rate 0 600")
        yield qemu
        qemu.stop()


@pytest.mark.parametrize(("route", "windows"), [(MULTI, 50), (PERF, 10)])  # by PERF it takes two seconds to detach
def test_windows_on_a_busy_guest_lose_nothing(busy: FakeQemu, route: str, windows: int) -> None:
    """No request looks lost; all that were taken have ended and are counted; every call has its request."""
    seen = 0
    for _ in range(windows):
        window = Window(Those(busy), route)
        window.run(WINDOW_S)
        window.assert_is_whole(in_flight=32)
        counted = window.counted()
        assert len(window.orphans) == counted["rbd_submitted"] - counted["scsi_submitted"]
        seen += len(window.endings)
    assert seen > windows  # a busy machine may give the guest no time at all in one of them


def test_what_does_not_end_is_counted_as_in_flight() -> None:
    """If Ceph does not answer, the tracer waits for the interval, and then counts both layers as in flight."""
    with FakeQemu() as qemu, Tracing(qemu) as tracing:
        window = Window(Those(qemu))
        qemu.command("hold")
        qemu.command("read 211 4096")
        qemu.command("orphan 5")
        began_s = time.monotonic()
        window._let_end(tracing.tracer)
        assert QUICK.end_s <= time.monotonic() - began_s < QUICK.end_s + 9
        assert window.still_in_flight == (211, 216)
        qemu.command("release-held")
        qemu.command("read 23 4096")
        assert tracing.tracer.still_in_flight() == (211, 216)
        counted = tracing.counted()
    assert (counted["scsi_submitted"], counted["rbd_submitted"]) == (211, 216)
    assert "scsi_completed" not in counted
    assert not len(window.endings)


def test_a_process_that_is_taken_anew_begins_anew() -> None:
    """
    If librbd is loaded while requests are in flight, their calls may have been missed: they are dropped and counted.
    """
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
