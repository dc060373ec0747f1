# SPDX-License-Identifier: Apache-2.0
"""
Running totals of every series, what has been delivered of them, and when each began and ended.

The kernel's entries only grow, and each goes by a name that may change: a disk is named after its first requests, is
unplugged, another guest takes over a process id.  So what an entry has grown by goes to the series that it is part of
now; a series ends when nothing goes by its name any more, is sent once more, and forgotten when that has arrived.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from otel_qemu.export.metrics.series_names import SeriesName

Counts = NDArray[np.uint64]
"""Of a histogram: the sum in ns, then the counts of its buckets; else one number, in ns where the unit is s."""


class Point(NamedTuple):
    """
    The part of one series that the next export sends.

    Attributes:
        name: of the series.
        start_unix_ns, time_unix_ns: all of it happened between these two.
        values: what came in between.
        total: all since the series began, which is delivered when this is.
        last: the series has ended.
    """

    name: SeriesName
    start_unix_ns: int
    time_unix_ns: int
    values: Counts
    total: Counts
    last: bool


@dataclass
class _Series:
    start_unix_ns: int
    total: Counts
    delivered: Counts
    delivered_unix_ns: int = 0
    ended: bool = False


class Totals:
    """
    All series.

    Args:
        start_unix_ns: nothing was counted before.
        most_ended: ended series that wait for an endpoint that is not there; of more, the oldest are given up.
    """

    def __init__(self, start_unix_ns: int, most_ended: int = 10_000) -> None:
        self._before_unix_ns = start_unix_ns
        self._most_ended = most_ended
        self._series: dict[SeriesName, _Series] = {}
        self.lost = 0
        """Ended series that were given up."""

    def __contains__(self, name: SeriesName) -> bool:
        return name in self._series

    def add(self, name: SeriesName, grown: Counts) -> None:
        """Count what has been added to a series; one that is new began after the moment of `settle`."""
        series = self._series.get(name)
        if series is None:
            self._series[name] = _Series(self._before_unix_ns, grown.copy(), np.zeros_like(grown))
        else:
            series.total = series.total + grown

    def settle(self, living: Iterable[SeriesName], time_unix_ns: int) -> None:
        """
        All that was counted up to this moment has been added.

        Args:
            living: series that may grow again; all others have ended.
            time_unix_ns: the moment.
        """
        self._before_unix_ns = time_unix_ns
        alive = set(living)
        for name, series in self._series.items():
            series.ended = name not in alive
        ended = [name for name, series in self._series.items() if series.ended]
        for name in ended[: max(0, len(ended) - self._most_ended)]:
            del self._series[name]
            self.lost += 1

    def move(self, by_ns: int) -> None:
        """The clock was set: all moments are so much later."""
        self._before_unix_ns += by_ns
        for series in self._series.values():
            series.start_unix_ns += by_ns
            series.delivered_unix_ns += by_ns if series.delivered_unix_ns else 0

    def points(self, time_unix_ns: int, delta: frozenset[str]) -> list[Point]:
        """
        What there is to send.

        Args:
            time_unix_ns: now.
            delta: instruments of which only what is new is sent, if anything is.
        """
        points = []
        for name, series in list(self._series.items()):
            start_unix_ns, values = series.start_unix_ns, series.total
            if is_delta := name.instrument in delta:
                start_unix_ns, values = series.delivered_unix_ns or start_unix_ns, values - series.delivered
            if values.any() or not is_delta:
                points.append(Point(name, start_unix_ns, time_unix_ns, values, series.total, series.ended))
            elif series.ended:
                del self._series[name]
        return points

    def deliver(self, points: Iterable[Point]) -> None:
        """These have arrived; all others will be part of the next export."""
        for point in points:
            series = self._series.get(point.name)
            if series is None:
                continue
            series.delivered, series.delivered_unix_ns = point.total, point.time_unix_ns
            if series.ended and point.last and not (series.total - point.total).any():
                del self._series[point.name]
