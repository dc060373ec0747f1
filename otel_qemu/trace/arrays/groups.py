# SPDX-License-Identifier: Apache-2.0
"""Rows that belong together, by the values of some columns: what a dictionary would do, for many rows at once."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_SLOT_BITS = 13
_FEW = 256
_EVERY = 61
"""The groups of every such row are looked for first: nearly always these are all groups."""
_ODD = np.uint64(0x9E3779B97F4A7C15)
"""2^64 divided by the golden ratio: a multiplication by it spreads numbers that are close (Knuth, TAOCP 3, 6.4)."""


def mixed(*columns: Any) -> NDArray[np.uint64]:
    """
    One number a row, uint64, shape (n,): the same for the same values, and hardly ever for others.

    Whoever looks for equal rows by it compares their values as well.
    """
    numbers: NDArray[np.uint64] = columns[0].astype("u8") * _ODD
    for column in columns[1:]:
        numbers ^= numbers >> np.uint64(29)
        numbers += column.astype("u8")
        numbers *= _ODD
    return numbers


class Groups(NamedTuple):
    """Groups of rows: `codes`, int64, shape (n,), is each row's; `firsts` is a row of each group."""

    codes: NDArray[np.int64]
    firsts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.firsts)

    def refined(self, column: NDArray[np.uint8]) -> "Groups":
        """The same split by another column, of small numbers: their pairs are counted, not looked for."""
        width = int(column.max(initial=0)) + 1
        pairs = self.codes * width
        pairs += column
        rows = np.full(len(self) * width, -1, dtype="i8")
        rows[pairs] = np.arange(len(pairs))
        (there,) = np.nonzero(rows >= 0)
        firsts = rows[there]
        rows[there] = np.arange(len(there))
        return Groups(rows[pairs], firsts)


def grouped(*columns: Any) -> Groups:
    """Groups of rows that are equal in all of these columns of integers or truths; each of shape (n,)."""
    if len(columns[0]) < _FEW:
        return _one_by_one(columns)
    return grouped_by(mixed(*columns), *columns)


def grouped_by(numbers: NDArray[np.uint64], *columns: Any) -> Groups:
    """
    The same, with a number a row to look for; shape (n,).

    Rows with equal values have one number.  If others share it, the groups are right all the same, but take longer.
    """
    keys = np.unique(numbers[::_EVERY])
    codes = _codes(keys, numbers)
    missed = keys[codes] != numbers if len(keys) else np.zeros(0, dtype=bool)
    if missed.any():
        keys = np.union1d(keys, numbers[missed])
        codes = _codes(keys, numbers)
    firsts = np.zeros(len(keys), dtype="i8")
    firsts[codes] = np.arange(len(numbers))
    if len(columns) > 1 and any((column[firsts][codes] != column).any() for column in columns):
        return _exactly(columns)
    return Groups(codes, firsts)


def _codes(keys: NDArray[np.uint64], numbers: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The place in `keys` of each number, where it is there; else of any."""
    slots = np.zeros(1 << _SLOT_BITS, dtype="i8")
    slots[_slots(keys)] = np.arange(len(keys))
    if (slots[_slots(keys)] == np.arange(len(keys))).all():  # no two keys share one: the quick way
        return slots[_slots(numbers)]
    return np.minimum(np.searchsorted(keys, numbers), max(len(keys) - 1, 0)).astype("i8")


def _slots(numbers: NDArray[np.uint64]) -> NDArray[np.int64]:
    return (numbers >> np.uint64(64 - _SLOT_BITS)).view("i8")


def _one_by_one(columns: tuple[Any, ...]) -> Groups:
    """The same with a dictionary: for few rows."""
    firsts: dict[tuple[int, ...], int] = {}
    rows = zip(*(column.tolist() for column in columns), strict=True)
    found = [firsts.setdefault(row, index) for index, row in enumerate(rows)]
    numbers = {first: number for number, first in enumerate(firsts.values())}
    return Groups(np.array([numbers[first] for first in found], dtype="i8"), np.array(list(numbers), dtype="i8"))


def _exactly(columns: tuple[Any, ...]) -> Groups:
    """The same, by sorting: for the rare batch where two groups have one number."""
    rows = np.stack([column.astype("u8") for column in columns], axis=1)
    _, firsts, codes = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    return Groups(codes.reshape(-1).astype("i8"), firsts.astype("i8"))
