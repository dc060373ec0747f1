# SPDX-License-Identifier: Apache-2.0
"""Bins: what a search among the bounds would give."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_qemu.settings.types import read_bounds
from otel_qemu.trace.arrays.bins import Bins
from otel_qemu.trace.histograms import DEFAULT_BOUNDS_S, in_ns

quick = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
BOUNDS = st.lists(st.integers(1, 2**62) | st.integers(1, 5000), min_size=1, max_size=40, unique=True).map(sorted)


@quick
@given(BOUNDS, st.lists(st.integers(-(2**62), 2**63 - 1), max_size=20))
def test_agrees_with_a_search(bounds: list[int], values: list[int]) -> None:
    """Any bounds, near and far apart; on each of them, just beside it, and anywhere."""
    beside = [bound + more for bound in bounds for more in (-1, 0, 1)]
    all_values, all_bounds = np.array([*values, *beside, 0], dtype="i8"), np.array(bounds, dtype="i8")
    assert Bins(all_bounds).of(all_values).tolist() == np.searchsorted(all_bounds, all_values, side="left").tolist()


def test_the_usual_bounds_need_no_search() -> None:
    """Neither those by default, nor exponential ones up to the finest."""
    for bounds_s in (DEFAULT_BOUNDS_S, read_bounds("exponential:0"), read_bounds("exponential:8")):
        assert Bins(in_ns(bounds_s)).is_ruled
    assert not Bins(np.array([10**9, 10**9 + 1])).is_ruled
