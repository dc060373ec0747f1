# SPDX-License-Identifier: Apache-2.0
"""The ring: every record that fits is read, every other one is counted, and no trace is cut in two."""

from collections.abc import Iterator

import numpy as np
import pytest

from otel_qemu.events import RecordKind
from otel_qemu.probe.program import RING_PAGES
from otel_qemu.trace.correlate import Correlator
from otel_qemu.trace.traces import Join
from tests.kernel.fake_qemu import FakeQemu
from tests.kernel.tracing import Tracing, hits, join, read_while_running

PAGE, SLOT_BYTES = 4096, 8 + 128
SMALL_PAGES = 64
FITS = SMALL_PAGES * PAGE // SLOT_BYTES
"""Records that the small ring holds."""


@pytest.fixture(scope="module")
def qemu() -> Iterator[FakeQemu]:
    with FakeQemu() as qemu:
        yield qemu


@pytest.fixture(scope="module")
def shared_small(qemu: FakeQemu) -> Iterator[Tracing]:
    with Tracing(qemu, ring_pages=SMALL_PAGES) as tracing:
        yield tracing


@pytest.fixture
def small(shared_small: Tracing) -> Tracing:
    """A tracer with a small, empty ring, and its counters at zero."""
    shared_small.records()
    shared_small.counted()
    return shared_small


def test_a_ring_that_nobody_reads_fills_up_and_is_counted(qemu: FakeQemu, small: Tracing) -> None:
    """At full load a small ring holds what fits, the rest is counted, and no count is lost."""
    qemu.command("read 20011 4096 32")
    counted = small.counted()
    assert counted["scsi_completed"] == counted["rbd_completed"] == counted["parent_found"] == 20011
    assert (counted["records"], counted["ring_full_request"]) == (FITS, 20011 - FITS)
    assert hits(counted) == 4 * 20011
    records = small.records()
    assert len(records) == FITS
    assert (np.diff(records["complete_ns"].astype("i8")) > 0).all()

    qemu.command("write 211 4096 32")
    assert len(small.records()) == 211, "once read, the ring takes records again"
    assert "ring_full_request" not in small.counted()


def test_the_ring_that_ships_fills_up_too(qemu: FakeQemu) -> None:
    """The same holds with the product's own size, with the maximum of requests in flight."""
    fits = RING_PAGES * PAGE // SLOT_BYTES
    with Tracing(qemu) as tracing:
        qemu.command(f"read {fits + 2003} 4096 32")
        counted = tracing.counted()
        assert (counted["records"], counted["ring_full_request"]) == (fits, 2003)
        assert len(tracing.records()) == fits


def test_a_full_ring_sheds_whole_traces(qemu: FakeQemu, small: Tracing) -> None:
    """Each request with several calls is read with all its calls, or counted as dropped."""
    qemu.command("unmap 2003 5 16")
    counted = small.counted()
    batch = small.tracer.read()
    kept = int((batch.records["kind"] == RecordKind.REQUEST).sum())
    assert kept + counted["ring_full_request"] == 2003
    correlator = Correlator()
    traces = join(correlator, batch, len(batch))
    joined = traces.calls["parent"] >= 0
    assert (len(traces.requests), int(joined.sum()), correlator.stats.incomplete) == (kept, 5 * kept, 0)
    assert set(traces.calls["join"][~joined].tolist()) <= {Join.PARENT_LOST}  # of the one that found the ring full
    assert "ring_full_call" not in counted


def test_calls_that_were_held_are_let_go_of_when_their_trace_is_shed(qemu: FakeQemu, small: Tracing) -> None:
    """No entry remains of a trace that found no room."""
    qemu.command("unmap 2003 4 16")
    assert small.map_entries() == {"processes": 1, "requests": 0, "calls": 0, "held": 0}


def test_a_ring_that_is_read_loses_nothing(qemu: FakeQemu) -> None:
    """While it is read, four times its size goes through the ring, and every record arrives once and complete."""
    with Tracing(qemu, ring_pages=256) as tracing:
        records = read_while_running(tracing, qemu, "rate 10007 3", interval_s=0.02)
        counted = tracing.counted()
    assert len(records) == counted["scsi_completed"] >= 30_021
    assert "ring_full_request" not in counted
    tags = records["tag"].astype("i8")
    assert sorted((tags - tags.min()).tolist()) == list(range(len(records)))
    assert (records["offset"] == records["cdb"][:, 2:6].copy().view(">u4")[:, 0].astype("u8") * 512).all()
    assert (records["calls"] == 1).all()
    assert (records["call_complete_ns"] > records["call_submit_ns"]).all()


def test_flat_out_all_is_read_or_counted(qemu: FakeQemu, small: Tracing) -> None:
    """A reader that is too slow for the load reads or counts every record."""
    records = read_while_running(small, qemu, "read 100003 4096 32", interval_s=0.01)
    counted = small.counted()
    assert len(records) == counted["records"] > FITS
    assert counted["records"] + counted.get("ring_full_request", 0) == 100_003
    assert hits(counted) == 4 * 100_003
    assert len(set(records["tag"].tolist())) == len(records)


def test_full_tables_are_counted(qemu: FakeQemu) -> None:
    """Requests that find a full table are counted, and the others are traced as usual."""
    with Tracing(qemu, requests=128) as tracing:
        qemu.command("hold")
        qemu.command("read 211 4096")
        qemu.command("release-held")
        counted = tracing.counted()
        assert tracing.map_entries() == {"processes": 1, "requests": 0, "calls": 0, "held": 0}
        traces = tracing.traces()
    assert (counted["scsi_submitted"], counted["scsi_table_full"], counted["scsi_unstarted"]) == (128, 83, 83)
    assert (counted["rbd_submitted"], counted["rbd_table_full"], counted["rbd_unstarted"]) == (128, 83, 83)
    assert (counted["scsi_completed"], counted["rbd_completed"]) == (128, 128)
    assert hits(counted) == 4 * 211
    assert (len(traces.requests), len(traces.calls)) == (128, 128)
