# SPDX-License-Identifier: Apache-2.0
"""The kernel's histograms have every request and every call once, in its bin, whatever becomes of its record."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from otel_qemu.events import Batch, Layer, RbdOperation
from otel_qemu.policy import COUNTS_ONLY, EVERYTHING, KeepPolicy
from otel_qemu.trace.histograms import DEFAULT_BOUNDS_S, Histograms, in_ns
from otel_qemu.trace.kernel_histograms import MOST_BOUNDS
from otel_qemu.trace.names import Names
from otel_qemu.trace.pipeline import Pipeline
from tests.bpf.intervals import union_ns
from tests.bpf.machine import DEVICE, PID, READ_10, Completion, Machine, Via
from tests.bpf.rooms import room_for

SMALL_BOUNDS_S = (1e-9, 2e-9, 5e-9, 1e-8, 3e-8)
WRITE_10 = b"\x2a" + bytes(9)
_DURATION_NS = st.one_of(st.integers(0, 2**40), st.sampled_from(in_ns(DEFAULT_BOUNDS_S).tolist()))


@dataclass(frozen=True)
class Counted:
    """One series: sums and counts of its parts; `counts` without the bins that are empty, by their number."""

    bytes: int
    duration: tuple[int, dict[int, int]]
    wait: tuple[int, dict[int, int]]
    completion: tuple[int, dict[int, int]]


NOTHING = (0, dict[int, int]())


def counted(machine: Machine) -> dict[tuple[int, int, int], Counted]:
    """Return the histograms by layer, operation and whether it failed."""
    found = {}
    for series, latency in zip(*machine.latencies(), strict=True):
        parts = {}
        for name in ("duration", "wait", "completion"):
            counts = latency[name]["counts"]
            parts[name] = (int(latency[name]["sum_ns"]), {int(i): int(counts[i]) for i in np.flatnonzero(counts)})
        assert series["pid"] == PID
        key = (int(series["layer"]), int(series["operation"]), int(series["failed"]))
        assert key not in found, "a test of one disk has one series of each kind"
        found[key] = Counted(int(latency["bytes"]), **parts)
    return found


def bin_of(bounds_ns: Sequence[int], value_ns: int) -> int:
    """Return the number of bounds below a value, by comparing each."""
    return sum(bound < value_ns for bound in bounds_ns)


def request(machine: Machine, duration_ns: int, cdb: bytes = READ_10, xfer: int = 512) -> None:
    """Make a request without a call that takes this long."""
    one = machine.submit_request(cdb, xfer)
    machine.now_ns += duration_ns
    machine.complete(one)


@pytest.mark.parametrize("bounds_s", [DEFAULT_BOUNDS_S, SMALL_BOUNDS_S, (0.001,), tuple(range(1, MOST_BOUNDS + 1))])
def test_a_value_equal_to_a_bound_is_in_its_bin_and_one_ns_more_in_the_next(bounds_s: tuple[float, ...]) -> None:
    """This holds at each bound, with one bound and with the maximum."""
    for index, bound_ns in enumerate(in_ns(bounds_s).tolist()):
        machine = Machine(bounds_s=bounds_s)
        request(machine, bound_ns)
        request(machine, bound_ns + 1)
        after = bin_of(in_ns(bounds_s).tolist(), bound_ns + 1)
        assert counted(machine)[Layer.SCSI, 0x28, 0].duration == (2 * bound_ns + 1, {index: 1, after: 1})


@pytest.mark.parametrize("duration_ns", [0, 1, 2**63])
def test_the_ends_of_the_scale(machine: Machine, duration_ns: int) -> None:
    """A duration of 0 is in the first bin; one above all bounds is in the last."""
    request(machine, duration_ns)
    wanted = 0 if duration_ns < 2 else len(DEFAULT_BOUNDS_S)
    assert counted(machine)[Layer.SCSI, 0x28, 0].duration == (duration_ns, {wanted: 1})


@settings(derandomize=True, database=None, max_examples=150, deadline=None)
@given(
    st.lists(st.integers(1, 2**40), min_size=1, max_size=MOST_BOUNDS, unique=True).map(sorted),
    st.lists(_DURATION_NS, min_size=1, max_size=20),
    st.data(),
)
def test_bins_are_those_of_a_plain_count(bounds_ns: list[int], values_ns: list[int], data: st.DataObject) -> None:
    """This holds for any bounds and any durations, also for durations that equal a bound."""
    values_ns = values_ns + data.draw(st.lists(st.sampled_from(bounds_ns), max_size=5))
    machine = Machine(bounds_s=tuple(bound / 1e9 for bound in bounds_ns))
    assert in_ns(machine.bounds_s).tolist() == bounds_ns
    for value_ns in values_ns:
        request(machine, value_ns)
    bins = [bin_of(bounds_ns, value_ns) for value_ns in values_ns]
    expected = {index: bins.count(index) for index in sorted(set(bins))}
    assert counted(machine)[Layer.SCSI, 0x28, 0].duration == (sum(values_ns), expected)


@settings(derandomize=True, database=None, max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 40)), max_size=8), st.integers(0, 50), st.integers(0, 50))
@example([(0, 0), (3, 0)], 3, 1)  # a call of 0 ns is the last one, too
def test_the_three_parts_add_up_to_the_duration(lengths: list[tuple[int, int]], before_ns: int, after_ns: int) -> None:
    """Wait is the duration without the union of the calls and without the time after the last one."""
    machine = Machine(bounds_s=SMALL_BOUNDS_S)
    intervals = sorted((before_ns + start, before_ns + start + length) for start, length in lengths)
    end_ns = max([before_ns, *(end for _, end in intervals)]) + after_ns
    begin_ns = machine.now_ns
    one = machine.submit_request(xfer=4096)
    calls = {}
    for moment in range(end_ns + 1):
        machine.now_ns = begin_ns + moment
        for number, (start, end) in enumerate(intervals):
            if start == moment:
                calls[number] = machine.call(one, RbdOperation.READ, length=512 + number)
            if end == moment:
                machine.release(calls[number], 512)
    machine.complete(one)

    bounds_ns = in_ns(SMALL_BOUNDS_S).tolist()
    found = counted(machine)
    assert found[Layer.SCSI, 0x28, 0].bytes == 4096
    assert found[Layer.SCSI, 0x28, 0].duration == (end_ns, {bin_of(bounds_ns, end_ns): 1})
    if not intervals:
        assert (found[Layer.SCSI, 0x28, 0].wait, found[Layer.SCSI, 0x28, 0].completion) == (NOTHING, NOTHING)
        assert set(found) == {(Layer.SCSI, 0x28, 0)}
        return
    completion_ns = end_ns - max(end for _, end in intervals)
    wait_ns = end_ns - union_ns(intervals) - completion_ns
    assert found[Layer.SCSI, 0x28, 0].completion == (completion_ns, {bin_of(bounds_ns, completion_ns): 1})
    assert found[Layer.SCSI, 0x28, 0].wait == (wait_ns, {bin_of(bounds_ns, wait_ns): 1})
    of_calls = found[Layer.RBD, RbdOperation.READ, 0]
    assert of_calls.bytes == sum(512 + number for number in range(len(intervals)))
    assert of_calls.duration[0] == sum(end - start for start, end in intervals)
    assert sum(of_calls.duration[1].values()) == len(intervals)
    assert (of_calls.wait, of_calls.completion) == (NOTHING, NOTHING)


def test_series_are_of_opcode_and_of_failed_or_good(machine: Machine) -> None:
    """READ(10) and READ(16) have series of their own, and so have failed requests and failed calls."""
    for cdb in (READ_10, b"\x88" + bytes(15)):
        machine.complete(machine.submit_request(cdb))
    machine.complete(machine.submit_request(), 2, b"\x70\0\x03")
    machine.complete(machine.submit_request(), 4)  # CONDITION MET is a good status
    machine.fail(machine.submit_request(), 7)
    machine.cancel(machine.submit_request())
    one = machine.submit_request(WRITE_10)
    machine.release(machine.call(one, RbdOperation.WRITE), 0)
    machine.release(machine.call(one, RbdOperation.WRITE), -5)
    machine.refuse(machine.call(one, RbdOperation.WRITE))  # its result is not known
    machine.complete(one)
    counts = {key: sum(of.duration[1].values()) for key, of in counted(machine).items()}
    assert counts == {
        (Layer.SCSI, 0x28, 0): 2, (Layer.SCSI, 0x88, 0): 1, (Layer.SCSI, 0x28, 1): 3, (Layer.SCSI, 0x2A, 0): 1,
        (Layer.RBD, RbdOperation.WRITE, 0): 2, (Layer.RBD, RbdOperation.WRITE, 1): 1,
    }  # fmt: skip


def test_a_call_is_counted_under_its_requests_disk(machine: Machine) -> None:
    """Its series has the device of its parent, or 0 without a parent."""
    one = machine.submit_request()
    machine.release(machine.call(one, RbdOperation.READ), 0)
    machine.release(machine.call(None, RbdOperation.READ), 0)
    machine.complete(one)
    series, _ = machine.latencies()
    calls = series[series["layer"] == Layer.RBD]
    assert sorted(calls["device"].tolist()) == [0, DEVICE]
    assert series[series["layer"] == Layer.SCSI]["device"].tolist() == [DEVICE]


def test_what_has_no_duration_is_not_counted(machine: Machine) -> None:
    """These are a request whose end was lost, one that began before the probes, and a release without a call."""
    machine.forget(machine.submit_request())
    machine.complete(machine.submit_request())
    machine.complete(machine.allocate_request())
    machine.release(machine.call(None, RbdOperation.FLUSH), 0)
    machine.release(machine.prepare(None, Via.DMA), 0)
    assert {key: sum(of.duration[1].values()) for key, of in counted(machine).items()} == {
        (Layer.SCSI, 0x28, 0): 1, (Layer.RBD, RbdOperation.FLUSH, 0): 1,
    }  # fmt: skip


@pytest.mark.parametrize("policy", [EVERYTHING, COUNTS_ONLY, KeepPolicy(one_in=3)], ids=["all", "none", "some"])
@pytest.mark.parametrize("room", [0, 3, 1000])
def test_everything_is_counted_whatever_becomes_of_the_records(policy: KeepPolicy, room: int) -> None:
    """A full ring and the policy drop records, and nothing from the histograms."""
    machine = Machine(policy=policy, ring_bytes=room_for(room))
    machine.world.dice_step = 0x3456_789A
    for number in range(60):
        one = machine.submit_request(WRITE_10, xfer=4096)
        for _ in range(2):
            call = machine.call(one, RbdOperation.WRITE, length=2048)
            machine.now_ns += 1000
            machine.release(call, 0)
        machine.now_ns += number
        machine.complete(one)
        machine.release(machine.call(None, RbdOperation.FLUSH), 0)
    found = counted(machine)
    assert found[Layer.SCSI, 0x2A, 0] == Counted(60 * 4096, (60 * 2000 + 1770, {0: 60}), (0, {0: 60}), (1770, {0: 60}))
    assert found[Layer.RBD, RbdOperation.WRITE, 0] == Counted(120 * 2048, (120_000, {0: 120}), NOTHING, NOTHING)
    assert found[Layer.RBD, RbdOperation.FLUSH, 0].duration == (0, {0: 60})
    totals = machine.counters()
    reasons = totals["records"] + totals["ring_full_request"] + totals["ring_full_call"]
    assert totals["requests_not_kept"] + totals["calls_not_kept"] + reasons >= 120
    assert not any(machine.table_sizes().values())


@settings(derandomize=True, database=None, max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0x28, 0x88, 0x2A, 0x35, 0x12, 0xC0]), st.integers(0, 2**36), st.booleans(),
            st.lists(st.tuples(st.sampled_from(RbdOperation), st.integers(0, 2**34)), max_size=3),
        ),
        max_size=12,
    )
)  # fmt: skip
def test_the_kernels_histograms_are_those_of_the_records(
    made: list[tuple[int, int, bool, list[tuple[RbdOperation, int]]]],
) -> None:
    """If every record is kept, user space counts the same rows from them."""
    machine = Machine()
    for opcode, duration_ns, failed, calls in made:
        machine.now_ns += 1
        one = machine.submit_request(bytes([opcode, *range(9)]))
        for operation, call_ns in calls:
            machine.now_ns += 3
            call = machine.call(one, operation)
            machine.now_ns += call_ns
            machine.release(call, 0)
        machine.now_ns += duration_ns
        machine.complete(one, 2 if failed else 0, b"\x70\0\x03")
    plain = Histograms()
    for traces in Pipeline().traces_of([Batch(machine.records(), 0)]):
        plain.add(traces)
    assert machine.histograms().rows(Names()) == plain.rows(Names())


@settings(derandomize=True, database=None, max_examples=200, deadline=None)
@given(st.dictionaries(st.integers(0, 60), st.integers(0, 90), min_size=1, max_size=5), st.integers(1, 80))
@example({0: 5, 8: 40}, 20)  # the further call outlives its request
def test_calls_that_outlive_their_request_are_counted_alike(lengths: dict[int, int], end_ns: int) -> None:
    """Until the request's end their time is rbd time, in the kernel as in user space."""
    machine = Machine(bounds_s=SMALL_BOUNDS_S)
    intervals = sorted((start, start + length) for start, length in lengths.items() if start <= end_ns)
    begin_ns, calls = machine.now_ns, dict[int, Completion]()
    one = machine.submit_request()
    for moment in range(160):
        machine.now_ns = begin_ns + moment
        for number, (start, end) in enumerate(intervals):
            if start == moment:
                calls[number] = machine.call(one, RbdOperation.READ)
            if end == moment:
                machine.release(calls[number])
        if moment == end_ns:
            machine.complete(one)
    plain = Histograms(SMALL_BOUNDS_S)
    for traces in Pipeline().traces_of([Batch(machine.records(), 0)]):
        plain.add(traces)
    assert machine.histograms().rows(Names()) == plain.rows(Names())
    assert not any(machine.table_sizes().values())


def test_when_the_table_is_full_what_is_in_no_histogram_is_counted() -> None:
    """Existing series grow on; each request and call without a series is counted."""
    machine = Machine(tables={"latencies": 1})
    request(machine, 10)
    request(machine, 10, WRITE_10)
    request(machine, 10, WRITE_10)
    request(machine, 10)
    machine.release(machine.call(None, RbdOperation.READ), 0)
    assert counted(machine)[Layer.SCSI, 0x28, 0].duration == (20, {0: 2})
    assert len(counted(machine)) == 1
    assert machine.counted()["series_full"] == 3
    assert machine.counted()["records"] == 5
