# SPDX-License-Identifier: Apache-2.0
"""Figures: a name that carries its unit, the samples of alternating repetitions, and what is made of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TextIO

from rich.console import Console
from rich.table import Table

Samples = dict[str, list[float]]
"""By what was measured, one number a repetition."""


@dataclass(frozen=True)
class Figure:
    """
    One measured quantity.

    Attributes:
        name: ends in its unit.
        median: of the repetitions.
        least: the smallest of them, which other loads on the machine disturbed least.
        aim: the most that it should be, where there is an aim.
    """

    name: str
    median: float
    least: float
    aim: float | None = None

    @classmethod
    def of(cls, name: str, samples: Sequence[float], aim: float | None = None) -> "Figure":
        """
        The figure of some samples.

        Raises:
            ValueError: there are no samples.
        """
        if not samples:
            raise ValueError(f"{name}: nothing was measured")
        return cls(name, median(samples), min(samples), aim)

    @property
    def met(self) -> bool | None:
        """Whether the median is within the aim; None: there is no aim."""
        return None if self.aim is None else self.median <= self.aim


def added(samples: Mapping[str, Sequence[float]], name: str, base: str) -> list[float]:
    """By how much a quantity exceeds its base, repetition by repetition, for both drift with the machine."""
    return [ours - theirs for ours, theirs in zip(samples[name], samples[base], strict=True)]


def ratios(numerators: Iterable[float], denominators: Iterable[float]) -> list[float]:
    """Quotients repetition by repetition; without those whose denominator is not above 0, where noise was larger."""
    return [above / below for above, below in zip(numerators, denominators, strict=True) if below > 0]


def as_json(figures: Iterable[Figure]) -> dict[str, dict[str, float]]:
    """Plain numbers by name."""
    return {
        figure.name: {"median": round(figure.median, 4), "min": round(figure.least, 4)}
        | ({} if figure.aim is None else {"aim": figure.aim})
        for figure in figures
    }


def print_table(title: str, figures: Iterable[Figure], file: TextIO) -> None:
    """A row a figure."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, show_edge=False)
    table.add_column("figure")
    for column in ("median", "min", "aim"):
        table.add_column(column, justify="right")
    for figure in figures:
        table.add_row(figure.name, _text(figure.median), _text(figure.least), _aim(figure))
    Console(file=file, width=100).print(table, "")


def _aim(figure: Figure) -> str:
    if figure.aim is None:
        return ""
    return f"≤ {_text(figure.aim)} {'met' if figure.met else 'missed'}"


def _text(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
