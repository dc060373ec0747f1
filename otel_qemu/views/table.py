# SPDX-License-Identifier: Apache-2.0
"""
Histograms for people: a table, and below it the layers of each guest, disk and operation side by side.

Where the rbd column looks like the scsi column, the time went to Ceph; where the wait column does, to QEMU.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from otel_qemu.trace.histograms import LAYERS, HistogramRow
from otel_qemu.trace.rules import DIRECT
from otel_qemu.views.words import duration_text, printable

WIDTH = 99
"""Columns used where the terminal does not say that it has fewer."""

_LAYER_TITLES = {"scsi": "scsi: the guest", "wait": "wait: QEMU", "rbd": "rbd: Ceph"}
_NUMERIC = ("count", "mean", "p50", "p99", "max")
_LABEL, _COUNT, _NARROWEST_BAR = 20, 9, 4

# Which librbd call an operation of the guest becomes: they are shown together.
_RBD_OPERATIONS = {name: calls[0].name.lower() for name, calls in DIRECT.items()}
_ORDER = {name: index for index, name in enumerate(dict.fromkeys(_RBD_OPERATIONS.values()))}

Group = list[HistogramRow]


def print_histograms(rows: Sequence[HistogramRow], file: TextIO) -> None:
    """Print both views: as wide as a terminal is, up to `WIDTH`; without colours and `WIDTH` wide to anything else."""
    console = Console(file=file, force_terminal=file.isatty(), markup=False, highlight=False, emoji=False)
    width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    console.width = width
    if not rows:
        console.print("nothing was counted: no request ended while tracing")
        return
    console.print(summary_table(rows))
    for group in _groups(rows):
        if all(row.layer == "scsi" and row.operation not in _RBD_OPERATIONS for row in group):
            continue  # QEMU answered by itself: the table says all there is
        console.print()
        for line in distribution_lines(group, width):
            console.print(Text(line), soft_wrap=True)


def summary_table(rows: Iterable[HistogramRow]) -> Table:
    """
    One line per histogram.  p50 and p99 are estimates within their bucket; max is the bucket of the slowest request.

    Lines that belong together, such as ``WRITE`` in scsi and wait and ``write`` in rbd, stand together.
    """
    table = Table(padding=(0, 1), pad_edge=False, box=None, header_style="bold")
    for column in ("guest", "disk", "layer", "operation", *_NUMERIC):
        number = column in _NUMERIC
        table.add_column(column, justify="right" if number else "left", no_wrap=number, overflow="fold")
    for group in _groups(rows):
        for row in group:
            # Text, not str: a guest may be called [red].
            cells = [printable(row.domain), _disk(row), row.layer, row.operation, str(row.count), *_durations(row)]
            table.add_row(*map(Text, cells))
    return table


def distribution_lines(group: Sequence[HistogramRow], width: int = WIDTH) -> Iterator[str]:
    """
    The histograms of one guest, disk and kind of operation, side by side.

        alpha  sda  WRITE: 94 % of the guest's 12.3 s was wait in QEMU
                            scsi: the guest           wait: QEMU                rbd: Ceph
        (100 µs, 250 µs]            0 |          |           0 |          |         120 |@@@@@@@@@@|

    Args:
        group: rows of one guest and disk, with the same bounds.
        width: columns to fit into, as far as they suffice.
    """
    bar = max(_NARROWEST_BAR, (width - _LABEL) // len(LAYERS) - _COUNT - 4)
    cell = _COUNT + bar + 4
    yield _headline(group)
    shown = [row for layer in LAYERS for row in group if row.layer == layer]
    for part in (shown[at : at + len(LAYERS)] for at in range(0, len(shown), len(LAYERS))):
        titles = "".join(f"  {_title(row, group):<{cell - 2}.{cell - 2}}" for row in part)
        yield f"{'':<{_LABEL}}{titles}".rstrip()
        for bucket in _buckets(part):
            cells = "".join(_cell(row, bucket, bar) for row in part)
            yield f"{_bucket_label(part[0].bounds_s, bucket):<{_LABEL}}{cells}".rstrip()


def _groups(rows: Iterable[HistogramRow]) -> Iterator[Group]:
    """Rows that show the same requests, in the order of guests and disks."""
    disks: dict[tuple[int, int], int] = {}
    groups: defaultdict[tuple[int, int, str], Group] = defaultdict(list)
    for row in rows:
        disk = disks.setdefault((row.pid, row.device), len(disks))
        operation = _RBD_OPERATIONS.get(row.operation, row.operation)
        groups[disk, _ORDER.get(operation, len(_ORDER)), operation].append(row)
    for key in sorted(groups):
        yield sorted(groups[key], key=lambda row: (LAYERS.index(row.layer), row.operation))


def _headline(group: Sequence[HistogramRow]) -> str:
    first = group[0]
    operations = ", ".join(dict.fromkeys(row.operation for row in group if row.layer == first.layer))
    headline = f"{printable(first.domain)}  {_disk(first)}  {operations}"
    spent = {layer: sum(row.sum_s for row in group if row.layer == layer) for layer in LAYERS}
    if spent["scsi"] <= 0 or not any(row.layer == "wait" for row in group):
        return headline
    share = 100 * spent["wait"] / spent["scsi"]
    return f"{headline}: {share:.0f} % of the guest's {duration_text(spent['scsi'])} was wait in QEMU"


def _title(row: HistogramRow, group: Sequence[HistogramRow]) -> str:
    alone = sum(other.layer == row.layer for other in group) == 1
    return _LAYER_TITLES[row.layer] if alone else f"{row.layer} {row.operation}"


def _disk(row: HistogramRow) -> str:
    return "(no request)" if row.disk is None else printable(row.target or row.disk)


def _durations(row: HistogramRow) -> list[str]:
    known = [duration_text(value) for value in (row.mean_s, row.quantile(0.5), row.quantile(0.99))]
    return [*known, _bound_text(row.bounds_s, row.highest_bucket)]


def _bound_text(bounds_s: Sequence[float], bucket: int) -> str:
    return f"≤ {duration_text(bounds_s[bucket])}" if bucket < len(bounds_s) else f"> {duration_text(bounds_s[-1])}"


def _buckets(rows: Sequence[HistogramRow]) -> range:
    """From the first to the last bucket that any of the rows counts in."""
    used = [bucket for row in rows for bucket, count in enumerate(row.counts) if count]
    return range(min(used), max(used) + 1) if used else range(0)


def _bucket_label(bounds_s: Sequence[float], bucket: int) -> str:
    if bucket == len(bounds_s):
        return f"({duration_text(bounds_s[-1])}, ∞)"
    low = duration_text(bounds_s[bucket - 1]) if bucket else "0"
    return f"({low}, {duration_text(bounds_s[bucket])}]"


def _cell(row: HistogramRow, bucket: int, bar: int) -> str:
    count = row.counts[bucket]
    # Rounded up: what happened once among millions is often what was looked for.
    length = math.ceil(bar * count / max(row.counts)) if count else 0
    return f"{count:>{_COUNT}} |{'@' * length:<{bar}}| "
