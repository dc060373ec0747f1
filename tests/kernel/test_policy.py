# SPDX-License-Identifier: Apache-2.0
"""Policies and histograms in the kernel: records may be few, and every request is counted, exactly."""

import math
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from otel_qemu.errors import BadInput
from otel_qemu.events import RECORD, Kept, Layer, RecordKind
from otel_qemu.policy import COUNTS_ONLY, KeepPolicy
from otel_qemu.probe.inspection import Inspection
from otel_qemu.probe.layouts import UNKNOWN_OFFSET
from otel_qemu.probe.processes import QemuProcess
from otel_qemu.settings.types import read_bounds
from otel_qemu.trace.histograms import Histograms, in_ns
from otel_qemu.trace.kernel_histograms import MOST_BOUNDS
from otel_qemu.trace.names import Names
from otel_qemu.trace.sample import Sampler
from otel_qemu.trace.scsi import operation_code
from otel_qemu.trace.traces import durations_ns
from tests.kernel.commands import COMMANDS, total
from tests.kernel.fake.build import OPAQUE, QEMU_7_2, QEMU_11_1
from tests.kernel.fake_qemu import FakeQemu
from tests.kernel.tracing import Tracing, WithoutProof

SMALL_PAGES = 16
MOST_HELD = 256
FITS = SMALL_PAGES * 4096 // (8 + RECORD.itemsize)


@pytest.fixture(scope="module")
def qemu() -> Iterator[FakeQemu]:
    with FakeQemu() as qemu:
        yield qemu


def latencies_bytes(tracing: Tracing, layer: Layer) -> int:
    """Bytes transferred in a layer, by the kernel's tables."""
    series, latencies = tracing.tracer._program.latencies()
    return int(latencies["bytes"][series["layer"] == layer].sum())


@pytest.mark.parametrize("policy", [KeepPolicy(), COUNTS_ONLY, KeepPolicy(7)], ids=["all", "errors", "some"])
def test_the_histograms_have_every_request(qemu: FakeQemu, policy: KeepPolicy) -> None:
    """After each command they have exactly its requests, whatever is kept."""
    with Tracing(qemu, policy=policy) as tracing:
        done: dict[str, dict[tuple[str, str], int]] = {}
        for command, counts in COMMANDS.items():
            qemu.command(command)
            done[command] = counts
            assert tracing.counts() == total(done)
        assert "series_full" not in tracing.counted()


@pytest.mark.parametrize("bounds", ["50us,1ms,5ms,1s", "exponential:0"])
def test_the_histograms_are_those_of_the_records(qemu: FakeQemu, bounds: str) -> None:
    """If every record is kept, counting the records gives the same rows: every bin and every sum."""
    bounds_s = read_bounds(bounds)
    with Tracing(qemu, bounds_s=bounds_s) as tracing:
        for command in COMMANDS:
            qemu.command(command)
        plain = Histograms(bounds_s)
        plain.add(tracing.traces())
        assert tracing.rows() == plain.rows(Names())


def test_calls_that_were_not_held_are_in_both(qemu: FakeQemu) -> None:
    """If a request makes more calls than it can hold, some have no record, and all are counted."""
    with Tracing(qemu) as tracing:
        qemu.command(f"unmap 3 {MOST_HELD + 44}")
        counted, traces = tracing.counted(), tracing.traces()
        plain = Histograms()
        plain.add(traces)
        kernel, ours = (
            {(row.layer, row.operation): row for row in rows} for rows in (tracing.rows(), plain.rows(Names()))
        )
    assert counted["calls_not_held"] == 3 * 44
    assert traces.requests["incomplete"].tolist() == [1] * 3
    for layer in ("scsi", "wait"):
        assert ours[layer, "UNMAP"] == kernel[layer, "UNMAP"]
    assert kernel["rbd", "discard"].count == ours["rbd", "discard"].count + counted["calls_not_held"]


def test_bytes_are_added_up(qemu: FakeQemu) -> None:
    """The sums equal the guest's transfers, and the lengths of its librbd calls."""
    with Tracing(qemu, policy=COUNTS_ONLY) as tracing:
        qemu.command("read 211 4096 16")
        qemu.command("write 101 5120")
        qemu.command("flush 19")
        wanted = 211 * 4096 + 101 * 5120
        assert [latencies_bytes(tracing, layer) for layer in Layer] == [wanted, wanted]


def test_a_ring_that_nobody_reads_takes_nothing_from_the_histograms(qemu: FakeQemu) -> None:
    """Of far more records than fit, every request is counted, and each missing record has its reason."""
    with Tracing(qemu, ring_pages=SMALL_PAGES) as tracing:
        qemu.command("read 20011 4096 32")
        qemu.command("unmap 503 5 16")
        qemu.command("orphan 101")
        counted = tracing.counted()
        records = tracing.records()
        counts = tracing.counts()
    assert counts == {
        ("scsi", "READ"): 20011, ("wait", "READ"): 20011, ("rbd", "read"): 20011 + 101,
        ("scsi", "UNMAP"): 503, ("wait", "UNMAP"): 503, ("rbd", "discard"): 5 * 503,
    }  # fmt: skip
    assert FITS - 1 <= len(records) == counted["records"] <= FITS  # a request may have given its place back
    requests = int((records["kind"] == RecordKind.REQUEST).sum())
    assert requests + counted["ring_full_request"] == counted["scsi_completed"] == 20011 + 503
    assert counted["ring_full_call"] >= 101
    assert counted.keys().isdisjoint({"requests_not_kept", "calls_not_kept", "calls_not_held", "series_full"})


def test_one_in_none_keeps_errors_only(qemu: FakeQemu) -> None:
    """Failed, aborted and CHECK CONDITION requests are kept, each with all its calls and its reason."""
    with Tracing(qemu, policy=COUNTS_ONLY) as tracing:
        for command in ("read 2003 4096 16", "unmap 23 5", "orphan 23", "inquiry 23", "fail 11", "check-condition 7",
                        "cancel 5"):  # fmt: skip
            qemu.command(command)
        counted = tracing.counted()
        records = tracing.records()
        entries = tracing.map_entries()
    requests = records[records["kind"] == RecordKind.REQUEST]
    assert len(requests) == 11 + 7 + 5
    assert set(requests["kept"].tolist()) == {Kept.ERROR}
    assert counted["requests_not_kept"] == 2003 + 23 + 23
    assert counted["calls_not_kept"] == 23
    assert counted["scsi_completed"] == len(requests) + counted["requests_not_kept"]
    assert entries == {"processes": 1, "requests": 0, "calls": 0, "held": 0}


def test_one_in_ten_keeps_about_a_tenth(qemu: FakeQemu) -> None:
    """The number is within six standard deviations; the rest is counted as not kept."""
    count, one_in = 20011, 10
    with Tracing(qemu, policy=KeepPolicy(one_in)) as tracing:
        qemu.command(f"read {count} 4096 32")
        counted = tracing.counted()
        records = tracing.records()
        counts = tracing.counts()
    sigma = math.sqrt(count * (1 / one_in) * (1 - 1 / one_in))
    assert abs(len(records) - count / one_in) < 6 * sigma
    assert set(records["kept"].tolist()) == {Kept.SAMPLED}
    assert len(records) + counted["requests_not_kept"] == count
    assert counts["scsi", "READ"] == counts["rbd", "read"] == count


def test_whole_traces_are_kept_or_not(qemu: FakeQemu) -> None:
    """Each request that is kept has all its calls, and each kept call has its request."""
    with Tracing(qemu, policy=KeepPolicy(3)) as tracing:
        qemu.command("unmap 2003 5 16")
        traces = tracing.traces()
        stats = tracing.correlator.stats
        entries = tracing.map_entries()
    assert 0 < len(traces.requests) < 2003
    assert len(traces.calls) == 5 * len(traces.requests)
    assert not len(traces.orphans)
    assert not stats.incomplete
    assert entries["held"] == 0


def test_slow_requests_are_kept(qemu: FakeQemu) -> None:
    """Exactly those are kept that Ceph held for longer than their operation's threshold."""
    policy = KeepPolicy(0, None, (("READ", 2.0),))
    with Tracing(qemu, policy=policy) as tracing:
        qemu.command("read 211 4096 16")
        qemu.command("hold")
        qemu.command("read 23 4096")
        qemu.command("write 23 4096")
        time.sleep(2.01)
        qemu.command("release-held")
        records = tracing.records()
        counted = tracing.counted()
    assert records["cdb"][:, 0].tolist() == [0x28] * 23
    assert set(records["kept"].tolist()) == {Kept.SLOW}
    assert (records["complete_ns"] - records["submit_ns"]).min() >= 2_000_000_000
    assert counted["requests_not_kept"] == 211 + 23


def test_a_build_that_is_joined_in_user_space_keeps_everything(qemu: FakeQemu) -> None:
    """Without a walk, every record is kept; another process beside it is thinned out."""
    with FakeQemu(OPAQUE) as opaque, Tracing(opaque, qemu, policy=COUNTS_ONLY) as tracing:
        opaque.command("read 211 4096")
        qemu.command("read 101 4096")
        records = tracing.records()
        counted = tracing.counted()
    assert set(records["pid"].tolist()) == {opaque.pid}
    assert np.bincount(records["kind"], minlength=3).tolist() == [0, 211, 211]
    assert counted["requests_not_kept"] == 101


def test_bounds_are_those_that_were_asked_for(qemu: FakeQemu) -> None:
    """With one bound of an hour there is one bin below it, and an empty one above."""
    with Tracing(qemu, bounds_s=(3600.0,)) as tracing:
        qemu.command("read 211 4096 16")
        rows = tracing.rows()
    assert {row.counts for row in rows} == {(211, 0)}
    assert {row.bounds_s for row in rows} == {(3600.0,)}


def test_histograms_of_a_process_that_has_ended_stay(qemu: FakeQemu) -> None:
    """They leave the kernel's tables, and are still returned with those of the others."""
    with FakeQemu(QEMU_11_1) as other, Tracing(qemu, other, policy=COUNTS_ONLY) as tracing:
        other.command("write 101 4096")
        qemu.command("read 23 4096")
        before = tracing.rows()
        other.kill()
        tracing.tracer.refresh()
        assert set(tracing.tracer.series()["pid"].tolist()) == {qemu.pid}
        assert tracing.rows() == before
        qemu.command("read 211 4096 16")
        of_other = {row.operation: row.count for row in tracing.rows() if row.pid == other.pid}
        assert of_other == {"WRITE": 101, "write": 101}
        assert tracing.counts()["scsi", "READ"] == 23 + 211


def test_histograms_are_readable_after_detaching(qemu: FakeQemu) -> None:
    """At the end of a run everything is detached first, and then read."""
    with Tracing(qemu) as tracing:
        qemu.command("read 23 4096")
        tracing.tracer.detach()
        qemu.command("read 211 4096")
        assert tracing.counts()["scsi", "READ"] == 23


def test_more_bounds_than_there_is_room_for_are_refused(qemu: FakeQemu) -> None:
    """32 bounds are refused in one line before anything is loaded; 31 are accepted."""
    bounds_s = tuple(float(second) for second in range(1, MOST_BOUNDS + 2))
    with pytest.raises(BadInput, match="32 are too many for a histogram in the kernel: give at most 31"):
        Tracing(qemu, bounds_s=bounds_s)
    with Tracing(qemu, bounds_s=bounds_s[:-1]) as tracing:
        qemu.command("read 23 4096")
        assert {len(row.counts) for row in tracing.rows()} == {MOST_BOUNDS + 1}


def test_estimates_from_one_in_ten_are_those_of_all(qemu: FakeQemu) -> None:
    """Estimates from the kept traces, by their thresholds, have each count and bin within its interval."""
    bounds_s = (0.0002, 0.0005, 0.001, 0.002, 0.005)
    with Tracing(qemu, policy=KeepPolicy(10, 0.01), bounds_s=bounds_s) as tracing:
        qemu.command("read 30011 4096 32")
        qemu.command("write 10007 4096 4")
        qemu.command("check-condition 11")
        traces = tracing.traces()
        exact = {row.operation: row for row in tracing.rows() if row.layer == "scsi"}
    found = Sampler(10, 1000.0, np.random.default_rng(1)).sample(traces).requests
    weights = 2.0**56 / (2.0**56 - found["threshold"])
    bins = np.searchsorted(in_ns(bounds_s), durations_ns(found), side="left")
    for name, row in exact.items():
        own = found["operation"] == operation_code(name)
        assert within(weights[own], row.count)
        assert all(within(weights[own & (bins == number)], count) for number, count in enumerate(row.counts))
    assert (found["threshold"] == 0).sum() >= 11
    assert 3000 < len(found) < len(traces.requests) + 1


def within(weights: NDArray[np.float64], exact: int) -> bool:
    """Whether an estimate lies within five standard errors; of nothing kept, the error is that of one weight."""
    variance = max(float((weights * (weights - 1)).sum()), float(weights.max(initial=10)) ** 2)
    return abs(float(weights.sum()) - exact) < 5 * math.sqrt(variance)


def test_without_calls_nothing_is_kept_for_joining_them() -> None:
    """A guest without librbd needs no join, so its requests are thinned out like others."""
    with FakeQemu(QEMU_7_2) as qemu, Tracing(qemu, inspector=WithoutRbd(), policy=COUNTS_ONLY) as tracing:
        qemu.command("read 211 4096")
        assert tracing.counted() == {"scsi_submitted": 211, "scsi_completed": 211, "requests_not_kept": 211}


class WithoutRbd(WithoutProof):
    """Finds no librbd."""

    def inspect(self, process: QemuProcess) -> Inspection:
        """As any other, but for that."""
        found = super().inspect(process)
        del found.sites["rbd"]
        found.layout = replace(found.layout, completion_argument=UNKNOWN_OFFSET, coroutine=UNKNOWN_OFFSET)
        return found


def test_one_in_more_than_the_kernel_can_count_is_none(qemu: FakeQemu) -> None:
    """The dice have 32 bits, and the setting any number."""
    with Tracing(qemu, policy=KeepPolicy(10**30)) as tracing:
        qemu.command("read 211 4096")
        assert tracing.counted()["requests_not_kept"] == 211
