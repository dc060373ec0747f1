# SPDX-License-Identifier: Apache-2.0
"""Histograms for people: what is beside what, how wide, and what a name can do to it."""

import io

import pytest

from otel_qemu.events import RbdOperation
from otel_qemu.trace.histograms import HistogramRow, Histograms
from otel_qemu.trace.names import Disk, Guest, Names
from otel_qemu.trace.traces import Join
from otel_qemu.views.table import distribution_lines, print_histograms
from tests.support import builders
from tests.support.builders import Call, Request, traces, write

EVIL = "[red]a[/red]\x1b[31m:smile:"


def throttled() -> Request:
    """A write of 223 ms of which Ceph took 1.8 ms."""
    return Request("WRITE", 1, 223_000_000, (Call(submit_ns=221_000_000, duration_ns=1_800_000),))


def rows(*requests: Request, names: Names | None = None, orphans: tuple[Call, ...] = ()) -> list[HistogramRow]:
    histograms = Histograms((0.0005, 0.0025, 0.1, 0.25))
    histograms.add(traces(*requests, orphans=orphans))
    return histograms.rows(names or builders.names())


def printed(found: list[HistogramRow]) -> str:
    file = io.StringIO()
    print_histograms(found, file)
    return file.getvalue()


def test_layers_stand_side_by_side_and_say_whose_time_it_was() -> None:
    lines = list(distribution_lines(rows(throttled(), throttled(), write()), width=86))

    assert lines == [
        "alpha  sda  WRITE: 99 % of the guest's 446 ms was wait in QEMU",
        "                      scsi: the guest       wait: QEMU            rbd: Ceph",
        "(0, 500 µs]                 1 |@@@@@    |         1 |@@@@@    |         1 |@@@@@    |",
        "(500 µs, 2.5 ms]            0 |         |         0 |         |         2 |@@@@@@@@@|",
        "(2.5 ms, 100 ms]            0 |         |         0 |         |         0 |         |",
        "(100 ms, 250 ms]            2 |@@@@@@@@@|         2 |@@@@@@@@@|         0 |         |",
    ]


def test_one_among_many_still_has_a_bar() -> None:
    lines = list(distribution_lines(rows(throttled(), *[write()] * 5000)))

    assert "1 |@ " in lines[-1]


def test_above_the_last_bound_is_said_so() -> None:
    text = printed(rows(Request("READ", 1, 10**9)))

    assert "> 250 ms" in text
    assert "(250 ms, ∞)" in text


def test_a_line_for_each_histogram_with_its_numbers() -> None:
    table = printed(rows(throttled(), write())).split("\n\n")[0].splitlines()

    assert [line.split()[:5] for line in table[1:]] == [
        ["alpha", "sda", "scsi", "WRITE", "2"],
        ["alpha", "sda", "wait", "WRITE", "2"],
        ["alpha", "sda", "rbd", "write", "2"],
    ]
    assert table[1].split()[5:] == ["112", "ms", "500", "µs", "247", "ms", "≤", "250", "ms"]


def test_a_file_gets_no_colours_and_under_100_columns() -> None:
    orphans = (Call(RbdOperation.FLUSH, join=Join.INTERNAL),)
    every = [Request(name, 1, calls=(Call(),)) for name in ("READ", "WRITE", "WRITE_AND_VERIFY", "UNMAP", "INQUIRY")]
    text = printed(rows(*every, orphans=orphans))

    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) < 100
    assert "(no request)" in text


def test_operations_that_become_the_same_call_share_a_group() -> None:
    group = printed(rows(write(), Request("WRITE_AND_VERIFY", 1, calls=(Call(),)))).split("\n\n")[1]

    assert group.startswith("alpha  sda  WRITE, WRITE_AND_VERIFY: ")
    assert "scsi WRITE_AND_VERIFY" in group


def test_names_are_text_and_not_markup_or_control() -> None:
    names = Names({4711: Guest(4711, "", name=EVIL)}, {(4711, builders.DEVICE): Disk("a", target=EVIL)})

    text = printed(rows(write(), names=names))

    assert "[red]a[/red]\\x1b[31m:smile:" in text
    assert "\x1b" not in text


def test_nothing_counted_is_a_sentence() -> None:
    assert printed([]) == "nothing was counted: no request ended while tracing\n"


@pytest.mark.parametrize("width", [10, 80, 99, 300])
def test_any_width_is_drawn(width: int) -> None:
    lines = list(distribution_lines(rows(write()), width))

    assert all(len(line) <= max(width, 80) for line in lines)
