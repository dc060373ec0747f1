# SPDX-License-Identifier: Apache-2.0
"""Histograms: every duration once, in the right bucket, exactly."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from otel_qemu.events import Ending, RbdOperation
from otel_qemu.settings.types import read_bounds
from otel_qemu.trace.exponential import SCALES, upper_bound_ns
from otel_qemu.trace.histograms import DEFAULT_BOUNDS_S, HistogramRow, Histograms, in_ns, rbd_operation
from otel_qemu.trace.names import Names
from otel_qemu.trace.traces import Join, Traces
from tests.support import builders
from tests.support.builders import Call, Request, traces, write

# How fast examples are thought of says how busy the machine is, and nothing of what is tested.
quick = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
OTHER_DEVICE = 0x5581_0000_9000


def rows_of(*parts: Traces, bounds_s: tuple[float, ...] = DEFAULT_BOUNDS_S) -> dict[str, HistogramRow]:
    """Rows by `disk layer operation`."""
    histograms = Histograms(bounds_s)
    for part in parts:
        histograms.add(part)
    rows = histograms.rows(builders.names())
    return {f"{row.disk} {row.layer} {row.operation}": row for row in rows}


def row(counts: tuple[int, ...], bounds_s: tuple[float, ...] = (1.0, 2.0, 4.0), sum_s: float = 0.0) -> HistogramRow:
    return HistogramRow("a", 1, "d", None, 2, "scsi", "READ", sum(counts), sum_s, bounds_s, counts)


class TestLayers:
    """What is counted under which name."""

    def test_a_write_is_counted_in_each_layer_with_its_own_time(self) -> None:
        rows = rows_of(traces(write()))

        sums = {key: (found.count, found.sum_s) for key, found in rows.items()}
        assert sums == {
            "ua-ceph-root scsi WRITE": (1, 412e-6),
            "ua-ceph-root wait WRITE": (1, 18e-6),
            "ua-ceph-root rbd write": (1, 371e-6),
        }

    def test_a_request_without_a_call_has_no_wait(self) -> None:
        assert list(rows_of(traces(Request("INQUIRY", 1)))) == ["ua-ceph-root scsi INQUIRY"]

    def test_a_request_that_lost_records_of_calls_has_the_kernels_wait(self) -> None:
        rows = rows_of(traces(write(incomplete=1)))

        assert rows["ua-ceph-root wait WRITE"].count == 1

    def test_a_call_that_came_after_its_request_is_under_its_disk(self) -> None:
        late = Call(join=Join.PARENT_LOST, fields={"device": OTHER_DEVICE})

        assert list(rows_of(traces(orphans=[late]))) == [f"0x{OTHER_DEVICE:x} rbd write"]

    def test_an_orphan_has_no_disk(self) -> None:
        rows = rows_of(traces(orphans=[Call(RbdOperation.FLUSH, join=Join.INTERNAL)]))

        assert list(rows) == ["None rbd flush"]
        assert rows["None rbd flush"].device == 0

    def test_a_call_is_counted_under_its_parents_disk(self) -> None:
        rows = rows_of(traces(write(device=OTHER_DEVICE), write(), write()))

        assert rows[f"0x{OTHER_DEVICE:x} rbd write"].count == 1
        assert rows["ua-ceph-root rbd write"].count == 2

    def test_what_has_no_known_duration_is_not_counted(self) -> None:
        histograms = Histograms()
        histograms.add(
            traces(
                Request("READ", 5, calls=(Call(RbdOperation.READ, 6, None),), fields={"wait_ns": 1}),
                write(ending=Ending.LOST),
                write(submit_ns=0),
            )
        )
        counts = {(found.layer, found.operation): found.count for found in histograms.rows(Names())}

        assert counts == {("scsi", "READ"): 1, ("wait", "READ"): 1, ("rbd", "write"): 2}

    def test_nothing_added_gives_no_rows(self) -> None:
        assert rows_of(traces()) == {}

    def test_names_are_those_known_when_asked(self) -> None:
        histograms = Histograms()
        histograms.add(traces(write()))

        unnamed, named = histograms.rows(Names())[0], histograms.rows(builders.names())[0]

        assert (unnamed.domain, unnamed.disk, unnamed.target) == ("pid 4711", f"0x{builders.DEVICE:x}", None)
        assert (named.domain, named.disk, named.target) == ("alpha", "ua-ceph-root", "sda")

    def test_an_operation_that_is_not_known_is_other(self) -> None:
        assert [rbd_operation(code) for code in (4, 0, 200)] == ["write_zeroes", "other", "other"]

    def test_rows_are_in_order_of_guest_disk_layer_operation(self) -> None:
        orphans = [Call(fields={"pid": 1})]
        rows = rows_of(traces(write(), Request("READ", 9), write(device=OTHER_DEVICE), orphans=orphans))

        assert list(rows) == [
            f"0x{OTHER_DEVICE:x} scsi WRITE",
            f"0x{OTHER_DEVICE:x} wait WRITE",
            f"0x{OTHER_DEVICE:x} rbd write",
            "ua-ceph-root scsi READ",
            "ua-ceph-root scsi WRITE",
            "ua-ceph-root wait WRITE",
            "ua-ceph-root rbd write",
            "None rbd write",
        ]


class TestBuckets:
    """Where a duration falls, and how they add up."""

    @pytest.mark.parametrize("bucket", range(len(DEFAULT_BOUNDS_S)))
    def test_a_value_equal_to_a_bound_is_in_its_bucket_and_one_ns_more_in_the_next(self, bucket: int) -> None:
        bound_ns = int(in_ns(DEFAULT_BOUNDS_S)[bucket])
        part = traces(*(Request("READ", 1, bound_ns + more) for more in (-1, 0, 1)))

        counts = rows_of(part)["ua-ceph-root scsi READ"].counts

        assert len(counts) == len(DEFAULT_BOUNDS_S) + 1
        assert (counts[bucket], counts[bucket + 1]) == (2, 1)

    def test_bounds_are_whole_ns(self) -> None:
        assert in_ns(DEFAULT_BOUNDS_S).tolist()[:4] == [50_000, 100_000, 250_000, 500_000]

    @quick
    @given(
        st.lists(
            st.tuples(
                st.sampled_from([1, 2, 2**32 - 1]),
                st.sampled_from([0x10, 0x20, 2**64 - 1]),
                st.sampled_from(["READ", "WRITE", "UNMAP"]),
                st.integers(1, 40_000_000_000),
            ),
            max_size=60,
        ),
        st.integers(0, 60),
    )
    def test_agrees_with_counting_one_by_one_in_any_cut(self, made: list[tuple[int, int, str, int]], cut: int) -> None:
        requests = [Request(op, 1, ns, fields={"pid": pid, "device": device}) for pid, device, op, ns in made]
        histograms = Histograms((0.001, 1.0, 10.0))
        for part in (requests[:cut], requests[cut:]):
            histograms.add(traces(*part))
        found = {(r.pid, r.device, r.operation): (r.counts, r.sum_s) for r in histograms.rows(Names())}

        expected = {}
        for key in {(pid, device, op) for pid, device, op, _ in made}:
            values = [ns for *rest, ns in made if tuple(rest) == key]
            edges = [-1, 10**6, 10**9, 10**10, math.inf]
            counts = tuple(sum(edges[i] < ns <= edges[i + 1] for ns in values) for i in range(4))
            expected[key] = (counts, sum(values) / 1e9)
        assert found == expected

    def test_sums_stay_exact_beyond_what_a_float_can_count(self) -> None:
        histograms = Histograms()
        long_ns = 2**53 + 1
        for _ in range(3):
            histograms.add(traces(Request("READ", 1, long_ns)))

        assert histograms.rows(Names())[0].sum_s == 3 * long_ns / 1e9


class TestEstimates:
    """Mean and quantiles of a row."""

    def test_mean_is_exact(self) -> None:
        assert row((1, 1, 2, 0), sum_s=6.0).mean_s == 1.5

    @pytest.mark.parametrize(("q", "expected"), [(0, 0.0), (0.25, 0.5), (0.5, 1.0), (0.75, 3.0), (1, 4.0)])
    def test_quantile_is_linear_within_a_bucket(self, q: float, expected: float) -> None:
        assert row((2, 0, 2, 0)).quantile(q) == pytest.approx(expected)

    def test_quantile_above_the_last_bound_is_that_bound(self) -> None:
        assert row((1, 0, 0, 9)).quantile(0.99) == 4.0

    def test_nothing_has_no_mean_and_no_quantile(self) -> None:
        nothing = row((0, 0, 0, 0))

        assert math.isnan(nothing.mean_s)
        assert math.isnan(nothing.quantile(0.5))
        assert nothing.highest_bucket == -1

    @quick
    @given(st.lists(st.integers(0, 50), min_size=4, max_size=4), st.floats(0, 1), st.floats(0, 1))
    def test_quantiles_ascend(self, counts: list[int], first: float, second: float) -> None:
        found = row(tuple(counts))
        if found.count:
            low, high = sorted((first, second))
            assert found.quantile(low) <= found.quantile(high)


class TestBounds:
    """Bounds as people write them."""

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("1ms,5ms", (0.001, 0.005)),
            ("0.001,0.005", (0.001, 0.005)),
            (" 50us , 0.1 MS", (0.00005, 0.0001)),
            ("1ns,3\u00b5s,4\u03bcs", (1e-9, 0.000003, 0.000004)),
            (".5,1e0,1e1s", (0.5, 1.0, 10.0)),
            ("30s", (30.0,)),
        ],
    )
    def test_reads_durations(self, text: str, expected: tuple[float, ...]) -> None:
        assert read_bounds(text) == expected

    @pytest.mark.parametrize(
        "text",
        ["", "  ", ",", "1ms,", "5ms,1ms", "1ms,1000us", "-1ms", "nan", "inf", "0", "0.1ns", "1e99", "1h", "1ms;2ms"],
    )
    def test_refuses_anything_else(self, text: str) -> None:
        with pytest.raises(ValueError):
            read_bounds(text)

    @pytest.mark.parametrize("bounds_s", [(), (math.nan,), (1.0, math.inf), (-1.0, 1.0), (2.0, 1.0)])
    def test_histograms_refuse_wrong_bounds_too(self, bounds_s: tuple[float, ...]) -> None:
        with pytest.raises(ValueError):
            Histograms(bounds_s)

    @quick
    @given(st.text(max_size=20))
    def test_any_text_gives_ascending_bounds_or_an_error(self, text: str) -> None:
        try:
            bounds_s = read_bounds(text)
        except ValueError:
            return
        assert (np.diff(in_ns(bounds_s)) > 0).all()


class TestExponential:
    """OpenTelemetry's base-2 exponential buckets, of durations in whole ns."""

    @quick
    @given(st.integers(1, 2**62), st.sampled_from(SCALES))
    def test_the_mapping_is_exact(self, duration_ns: int, scale: int) -> None:
        """Above the lower bound and not above the upper one, in integers: 10^9 2^(i / 2^s) < d, to the power 2^s."""
        (index,) = exponential_indices(np.array([duration_ns]), scale).tolist()

        assert _above(duration_ns, index, scale)
        assert not _above(duration_ns, index + 1, scale)

    @quick
    @given(st.lists(st.integers(1, 2**62), min_size=1), st.sampled_from(SCALES[1:]))
    def test_a_lower_scale_joins_two_buckets(self, durations_ns: list[int], scale: int) -> None:
        """Bucket i of a scale is bucket i >> 1 of the one below."""
        values = np.array(durations_ns)

        assert (exponential_indices(values, scale) >> 1 == exponential_indices(values, scale - 1)).all()

    def test_powers_of_two_are_upper_bounds(self) -> None:
        """A second is the last of its bucket, at every scale."""
        for scale in SCALES:
            assert exponential_indices(np.array([10**9, 10**9 + 1]), scale).tolist() == [-1, 0]

    @pytest.mark.parametrize("scale", SCALES)
    def test_histograms_have_the_same_buckets(self, scale: int) -> None:
        """`exponential:SCALE` as bounds counts what the mapping counts."""
        durations_ns = np.random.default_rng(1).lognormal(np.log(1e6), 2, 500).astype("i8") + 1
        bounds_s = read_bounds(f"exponential:{scale}")
        rows = rows_of(traces(*(Request("READ", 1, int(ns)) for ns in durations_ns)), bounds_s=bounds_s)
        indices = exponential_indices(durations_ns, scale)
        first = exponential_indices(in_ns(bounds_s)[:1], scale)[0]
        places = np.clip(indices - first, 0, len(bounds_s))

        assert rows["ua-ceph-root scsi READ"].counts == tuple(np.bincount(places, minlength=len(bounds_s) + 1))

    @pytest.mark.parametrize("scale", ["", "x", "9", "-3", "1.5"])
    def test_scales_that_are_none_are_refused(self, scale: str) -> None:
        with pytest.raises(ValueError, match="is no scale from -2 to 8"):
            read_bounds(f"exponential:{scale}")


def _above(duration_ns: int, power: int, scale: int) -> bool:
    """Whether a duration is above 2^(power / 2^scale) seconds, without a root."""
    root = 2 ** max(scale, 0)
    power *= 2 ** max(-scale, 0)
    return duration_ns**root * 2 ** max(-power, 0) > 10 ** (9 * root) * 2 ** max(power, 0)


LONGEST_NS = int(np.iinfo("i8").max)


def exponential_indices(durations_ns: NDArray[np.int64], scale: int) -> NDArray[np.int64]:
    """
    The bucket of each duration, int64, shape (n,).

    Args:
        durations_ns: above 0; durations of 0 belong into the zero bucket, which has no index.
        scale: of `SCALES`.
    """
    if not len(durations_ns):
        return np.zeros(0, dtype="i8")
    lowest, highest = (_near(int(end), scale) for end in (durations_ns.min(), durations_ns.max()))
    bounds_ns = [min(upper_bound_ns(index, scale), LONGEST_NS) for index in range(lowest - 1, highest + 2)]
    return lowest - 1 + np.searchsorted(np.array(bounds_ns), durations_ns, side="left")


def _near(duration_ns: int, scale: int) -> int:
    """The bucket of one duration, or one beside it."""
    return int(np.ceil(np.log2(duration_ns / 1e9) * 2.0**scale)) - 1
