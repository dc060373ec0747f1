# SPDX-License-Identifier: Apache-2.0
"""Tables by the column: the same as the rows they are made of."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_qemu.events import RECORD
from otel_qemu.trace.arrays.columns import Columns, RowView, as_columns, as_table
from otel_qemu.trace.traces import CALL, REQUEST

quick = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
DTYPES = pytest.mark.parametrize("dtype", [RECORD, REQUEST, CALL], ids=["record", "request", "call"])


def random_rows(dtype: np.dtype[np.void], count: int) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    """Rows of any bytes."""
    return np.frombuffer(np.random.default_rng(count).bytes(count * dtype.itemsize), dtype)


@DTYPES
@quick
@given(cut=st.integers(0, 1500), count=st.sampled_from((0, 1, 15, 16, 17, 1500)))
def test_rows_come_back_as_they_were(dtype: np.dtype[np.void], cut: int, count: int) -> None:
    """Every column by its name, and all of them as rows, of tables longer than wide and wider than long."""
    rows = random_rows(dtype, count)
    columns = Columns.of(rows[:cut], rows[cut:])
    assert len(columns) == count
    assert all((columns[name] == rows[name]).all() for name in dtype.names or ())
    assert columns.rows().tobytes() == as_table(rows).tobytes() == rows.tobytes()
    assert as_columns(columns) is columns


@DTYPES
def test_a_column_is_written_into_its_rows_and_no_other(dtype: np.dtype[np.void]) -> None:
    """Columns that share 8 bytes do not disturb each other."""
    rows = random_rows(dtype, 20)
    columns = Columns.zeros(dtype, 20)
    for name in dtype.names or ():
        if not dtype[name].shape:
            columns[name] = rows[name]
    back = columns.rows()
    assert all((back[name] == rows[name]).all() for name in dtype.names or () if not dtype[name].shape)


def test_some_columns_and_some_rows() -> None:
    """By truths, by numbers, from one to another, and as a choice that is read later."""
    rows = random_rows(RECORD, 30)
    some, columns, numbers = Columns.select(rows, "link", "length"), Columns.of(rows), np.array([4, 0, 0])
    assert (some["kind"] == rows["kind"]).all()
    assert (some["length"] == rows["length"]).all()
    with pytest.raises(KeyError):
        some["offset"]
    assert columns.take(rows["tag"] > 2**31).rows().tobytes() == rows[rows["tag"] > 2**31].tobytes()
    assert columns.take(numbers).rows().tobytes() == rows[numbers].tobytes()
    assert columns.between(3, 5)["tag"].tolist() == rows["tag"][3:5].tolist()
    assert RowView(columns, numbers)["lun"].tolist() == rows["lun"][numbers].tolist()
