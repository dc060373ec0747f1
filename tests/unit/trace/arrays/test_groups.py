# SPDX-License-Identifier: Apache-2.0
"""Groups and copies of rows: what a dictionary and plain indexing would give."""

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_qemu.trace.arrays.columns import concatenate_rows, take_rows
from otel_qemu.trace.arrays.groups import grouped, grouped_by, mixed
from tests.support import builders

quick = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
ROWS = st.lists(st.tuples(st.integers(0, 3), st.sampled_from((0, 1, 2**63, 2**64 - 1)), st.booleans()), max_size=200)


def columns_of(rows: list[tuple[int, int, bool]]) -> list[Any]:
    kinds = ("u4", "u8", "?")
    return [np.array([row[at] for row in rows], dtype=kind) for at, kind in enumerate(kinds)]


def _low(*columns: Any) -> Any:
    """Distinct numbers for distinct rows, all small."""
    keys = {row: number for number, row in enumerate(sorted(set(zip(*(c.tolist() for c in columns), strict=True))))}
    return np.array([keys[row] for row in zip(*(c.tolist() for c in columns), strict=True)], dtype="u8")


MIXING = {
    "as it is": mixed,
    "one number for all": lambda *columns: np.full(len(columns[0]), 5, dtype="u8"),
    "one slot for all": _low,
}


@quick
@given(ROWS, st.sampled_from((*sorted(MIXING), "one by one")))
def test_rows_with_equal_values_are_a_group_and_others_are_not(rows: list[tuple[int, int, bool]], mixing: str) -> None:
    """One by one or by the column; also where values have one number or one slot that differ: then it is slower."""
    columns = columns_of(rows)
    found = grouped_by(MIXING[mixing](*columns), *columns) if mixing in MIXING else grouped(*columns)
    assert len(found) == len(set(rows))
    assert [rows[found.firsts[code]] for code in found.codes] == rows


@quick
@given(ROWS)
def test_groups_are_split_by_a_small_number(rows: list[tuple[int, int, bool]]) -> None:
    """The same as if that had been another column from the start."""
    small, *others = columns_of(rows)
    found = grouped(*others).refined(small.astype("u1"))
    assert len(found) == len(set(rows))
    assert [rows[found.firsts[code]] for code in found.codes] == rows


@pytest.mark.parametrize("count", [0, 1, 100_000])
def test_many_groups(count: int) -> None:
    """More than there are slots, and than the first look finds; none of nothing."""
    values = np.random.default_rng(1).integers(0, 20_000, count)
    found = grouped(values)
    assert len(found) == len(np.unique(values))
    assert (values[found.firsts][found.codes] == values).all()


def test_rows_are_copied_whole() -> None:
    """By truths and by numbers; one table after the other."""
    rows = builders.records(5, tag=np.arange(5))
    some = take_rows(rows, rows["tag"] > 2)
    assert some.dtype == rows.dtype
    assert some["tag"].tolist() == [3, 4]
    assert take_rows(rows, np.array([4, 0, 0]))["tag"].tolist() == [4, 0, 0]
    assert (concatenate_rows(some, rows[:2]) == np.concatenate((some, rows[:2]))).all()
    some["tag"] = 9
    assert rows["tag"].tolist() == [0, 1, 2, 3, 4]
