# SPDX-License-Identifier: Apache-2.0
"""Exponential histograms are exact: every duration is in the bucket that its value in seconds belongs to."""

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from otel_qemu.export.metrics.exponential_buckets import BOUNDS_S, SCALE, positive_buckets
from otel_qemu.export.metrics.export_settings import MetricSettings
from otel_qemu.trace.histograms import in_ns
from otel_qemu.trace.kernel_histograms import MOST_BOUNDS
from tests.support.metering import READ, Kernel, Meter, by_series, otlp

BOUNDS_NS = in_ns(BOUNDS_S)
LONGEST_NS = 4096 * 10**9
ZERO_S = 2.0**-18

_NEAR = st.builds(lambda bound, by: int(bound) + by, st.sampled_from(BOUNDS_NS.tolist()), st.integers(-2, 2))
_NS = st.one_of(st.integers(1, LONGEST_NS), st.integers(1, 10**7), _NEAR.filter(lambda ns: ns <= LONGEST_NS))


def index_of(duration_ns: int) -> int | None:
    """The bucket by the definition, in whole numbers: 2^index < duration in s <= 2^(index + 1); None for zero's."""
    duration_s = Fraction(duration_ns, 10**9)
    if duration_s <= Fraction(ZERO_S):
        return None
    return next(index for index in range(-40, 40) if duration_s <= Fraction(2) ** (index + 1))


def test_the_kernel_has_room_for_the_bounds() -> None:
    assert len(BOUNDS_S) == MOST_BOUNDS
    assert SCALE == 0
    assert (np.diff(BOUNDS_NS) > 0).all()


@given(st.lists(_NS, max_size=30))
def test_each_duration_is_in_its_bucket(durations_ns: list[int]) -> None:
    """Counted with the kernel's bounds in ns, and bucket by bucket as if each had been put there by itself."""
    bins = np.searchsorted(BOUNDS_NS, durations_ns, side="left").astype(int)
    counts = np.bincount(bins, minlength=len(BOUNDS_S) + 1).tolist()
    offset, found = positive_buckets(counts)
    indices = [index_of(each) for each in durations_ns]
    expected = {index: indices.count(index) for index in set(indices) - {None}}
    assert counts[0] == indices.count(None)
    assert {offset + at: each for at, each in enumerate(found) if each} == expected
    assert not found or (found[0] and found[-1])


def test_what_is_longer_than_the_last_bound_is_in_the_next_bucket() -> None:
    """Buckets have no overflow: an hour and a half is above 4096 s, and said to be below 8192."""
    counts = [0] * len(BOUNDS_S) + [2]
    assert positive_buckets(counts) == (12, [2])


def test_they_leave_as_they_are_counted() -> None:
    """Count, sum, scale, zero bucket and buckets of a request of 3 µs and two of 1.5 ms."""
    settings = MetricSettings(exponential=True)
    kernel, meter = Kernel(settings.bounds_s), Meter(settings)
    for duration_ns in (3_000, 1_500_000, 1_500_000):
        kernel.request(READ, duration_ns)
    sent = by_series(otlp(meter.measure(kernel)))
    (point,) = (each for key, each in sent.items() if key[0] == "qemu.scsi.request.duration")
    assert (point.count, point.sum, point.scale) == (3, 3_003_000 / 1e9, 0)
    assert point.zero_count == 1
    assert (point.positive.offset, list(point.positive.bucket_counts)) == (-10, [2])  # 0.98 to 1.95 ms
    assert not point.negative.bucket_counts
