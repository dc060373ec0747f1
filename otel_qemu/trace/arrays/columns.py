# SPDX-License-Identifier: Apache-2.0
"""
Tables by the column.

A column of a structured array is a value every 128 bytes: to read one is to read the whole table, 8 ns a row.  Turned
once, which takes as long as reading three such columns, every column lies by itself and is read in a thirtieth of that.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.void]

_WORD_BYTES = 8
_AT_ONCE = 512
"""Rows that are transposed at a time: of fewer the calls cost more, of more the cache does."""


class Columns:
    """
    Rows of a structured dtype, stored as columns of 8 bytes; read and written by name as a structured array is.

    A named column is a view, shape (n,), into the 8 bytes that it is part of; one of more than 8 bytes is a copy.
    No field may lie across two columns: the dtype must be aligned as C would align it.
    """

    def __init__(
        self, dtype: np.dtype[np.void], words: NDArray[np.uint64], places: "dict[str, _Place] | None" = None
    ) -> None:
        """Of columns of 8 bytes, ``words`` of shape (k, n): all in their order, else those that `places` names."""
        self.dtype = dtype
        self.words = words
        self._places = places or _places(dtype)

    @classmethod
    def zeros(cls, dtype: np.dtype[np.void], count: int) -> "Columns":
        """Rows of zeroes."""
        return cls(dtype, np.zeros((dtype.itemsize // _WORD_BYTES, count), dtype="u8"))

    @classmethod
    def of(cls, *parts: Table) -> "Columns":
        """The columns of rows of one dtype, one part after the other."""
        dtype = parts[0].dtype
        words = np.empty((dtype.itemsize // _WORD_BYTES, sum(map(len, parts))), dtype="u8")
        at = 0
        for part in parts:
            _turn(_by_row(part), words[:, at : at + len(part)])
            at += len(part)
        return cls(dtype, words)

    @classmethod
    def select(cls, rows: Table, *names: str) -> "Columns":
        """Only the columns of 8 bytes that these names are part of."""
        by_row, places = _by_row(rows), _places(rows.dtype)
        numbers = list(dict.fromkeys(places[name].word for name in names))
        here = {
            name: place._replace(word=numbers.index(place.word))
            for name, place in places.items()
            if place.word in numbers
        }
        return cls(rows.dtype, np.stack([by_row[:, number] for number in numbers]), here)

    def __len__(self) -> int:
        return self.words.shape[1]

    def __getitem__(self, name: str) -> Any:
        word, words, kind, part = self._places[name]
        if words > 1:
            return np.stack(list(self.words[word : word + words]), axis=1).view(kind)
        column = self.words[word]
        return column.view(kind)[part] if part else column

    def word(self, name: str) -> NDArray[np.uint64]:
        """The 8 bytes that a column is part of, shape (n,): a view."""
        word: NDArray[np.uint64] = self.words[self._places[name].word]
        return word

    def __setitem__(self, name: str, values: Any) -> None:
        self[name][...] = values

    def between(self, first: int, last: int) -> "Columns":
        """The rows from one to before another: a view."""
        return Columns(self.dtype, self.words[:, first:last])

    def take(self, which: NDArray[Any]) -> "Columns":
        """Copies of some rows: those where `which` is true, or those that it numbers."""
        numbers = np.flatnonzero(which) if which.dtype == bool else which
        return Columns(self.dtype, self.words.take(numbers, axis=1))

    def rows(self) -> Table:
        """A structured array of the same."""
        by_row = np.empty(self.words.shape[::-1], dtype="u8")
        for at in range(0, len(self), _AT_ONCE):
            by_row[at : at + _AT_ONCE] = self.words[:, at : at + _AT_ONCE].T
        return by_row.view(self.dtype)[:, 0]


@dataclass(frozen=True, slots=True)
class RowView:
    """Numbered rows of a table, some perhaps repeated; a column is copied when it is read, and no other is."""

    table: "TableLike"
    numbers: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, name: str) -> Any:
        return self.table[name].take(self.numbers)


class TableLike(Protocol):
    """Anything with columns by name: a `Table`, `Columns` or a `RowView`."""

    def __len__(self) -> int:
        """How many rows."""

    def __getitem__(self, name: str, /) -> Any:
        """A column, shape (n,)."""


def as_table(rows: Table | Columns) -> Table:
    """Rows as a structured array; one that is given is returned."""
    return rows.rows() if isinstance(rows, Columns) else rows


def as_columns(rows: Table | Columns) -> Columns:
    """Rows as columns; `Columns` that are given are returned."""
    return rows if isinstance(rows, Columns) else Columns.of(rows)


def take_rows(table: Table, which: Any) -> Table:
    """Some rows: those where `which` is true, or those that it numbers."""
    numbers = np.flatnonzero(which) if which.dtype == bool else which
    return np.take(table.view(_block(table)), numbers).view(table.dtype)


def concatenate_rows(*tables: Table) -> Table:
    """All rows of tables of one dtype, one after the other; not copied where they are all of one of them."""
    filled = [table for table in tables if len(table)]
    if len(filled) < 2:
        return filled[0] if filled else tables[0]
    return np.concatenate([table.view(_block(table)) for table in filled]).view(tables[0].dtype)


def _block(table: Table) -> str:
    """Rows as blocks of bytes: numpy copies a structured row field by field, which takes 20 times as long."""
    return f"V{table.dtype.itemsize}"


class _Place(NamedTuple):
    """Where a field is: in which column of 8 bytes, or from which on in how many; as what, and which of these."""

    word: int
    words: int
    kind: np.dtype[Any]
    part: slice | None


@cache
def _places(dtype: np.dtype[np.void]) -> dict[str, _Place]:
    assert dtype.fields is not None
    return {name: _place(field[0], field[1]) for name, field in dtype.fields.items()}


def _place(kind: np.dtype[Any], offset: int) -> _Place:
    word, inside = divmod(offset, _WORD_BYTES)
    words = -(-(inside + kind.itemsize) // _WORD_BYTES)
    if kind.subdtype is not None:
        return _Place(word, words, kind.base, None)
    assert words == 1, f"a field at byte {offset} lies across two columns"
    is_whole = kind == np.dtype("u8")
    return _Place(
        word, 1, kind, None if is_whole else slice(inside // kind.itemsize, None, _WORD_BYTES // kind.itemsize)
    )


def _by_row(rows: Table) -> NDArray[np.uint64]:
    return np.ascontiguousarray(rows).view("u8").reshape(-1, rows.dtype.itemsize // _WORD_BYTES)


def _turn(by_row: NDArray[np.uint64], words: NDArray[np.uint64]) -> None:
    """Rows into columns."""
    for at in range(0, len(by_row), _AT_ONCE):
        words[:, at : at + _AT_ONCE] = by_row[at : at + _AT_ONCE].T
