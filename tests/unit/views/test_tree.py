# SPDX-License-Identifier: Apache-2.0
"""Traces as text: exact lines, so that a change of them shows."""

import pytest

from otel_qemu.events import RETURN_UNKNOWN, Ending, RbdOperation
from otel_qemu.trace.names import Disk, Guest, Names
from otel_qemu.trace.traces import Join, Traces
from otel_qemu.views.tree import tree_lines
from otel_qemu.views.words import duration_text, printable, result_text, size_text
from tests.support import builders
from tests.support.builders import Call, Request, traces, write


def tree(part: Traces, names: Names | None = None) -> list[str]:
    return list(tree_lines(part, names or builders.names()))


def test_a_write_with_one_call() -> None:
    assert tree(traces(write())) == [
        "WRITE  alpha sda (rbd/alpha-root)  lba=2048 4 KiB  GOOD                412.0 µs",
        "  = wait 18.0 + rbd 371.0 + completion 23.0",
        "  └ rbd.aio_write  rbd/alpha-root  1048576+4096 = 0           +18.0    371.0 µs  walk+range",
    ]


def test_one_unit_for_a_whole_trace() -> None:
    calls = (
        Call(RbdOperation.READ, 221_000_000, 1_500_000),
        Call(RbdOperation.READ, 221_100_000, None, Join.WALK, {"return_value": RETURN_UNKNOWN, "disagrees": 1}),
    )
    assert tree(traces(Request("READ", 0, 223_000_000, calls))) == [
        "READ  alpha sda (rbd/alpha-root)  lba=2048 4 KiB  GOOD               223.000 ms",
        "  = wait 221.000 + rbd 1.500 + completion 0.500",
        "  ├ rbd.aio_read  rbd/alpha-root  1048576+4096 = 0         +221.000    1.500 ms  walk+range",
        "  └ rbd.aio_read  rbd/alpha-root  1048576+4096 = ?         +221.100   not ended  walk disagrees",
    ]


def test_a_flush_without_a_call() -> None:
    flush = Request("SYNCHRONIZE_CACHE", 9, 3_000, fields={"lba": 0, "bytes": 0, "block_bytes": 0})
    assert tree(traces(flush)) == [
        "SYNCHRONIZE_CACHE  alpha sda (rbd/alpha-root)  GOOD                      3.0 µs",
        "  = no RBD call",
    ]


@pytest.mark.parametrize("join", [join for join in Join if join >= Join.INTERNAL])
def test_an_orphan_says_why(join: Join) -> None:
    orphan = Call(RbdOperation.FLUSH, join=join, fields={"offset": 0, "length": 0, "return_value": -5})

    (line,) = tree(traces(orphans=[orphan]))

    assert line.startswith("rbd.aio_flush  rbd/alpha-root = -EIO ")
    assert line.endswith(f"371.0 µs  no request: {join.label.replace('_', ' ')}")
    assert len(line) <= 100


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"status": 2, "sense_key": 3, "asc": 0x11}, "CHECK_CONDITION MEDIUM_ERROR 0x11/0x00"),
        ({"status": 2, "sense_key": 99}, "CHECK_CONDITION 0x63 0x00/0x00"),
        ({"ending": Ending.FAILED, "host_status": 7}, "FAILED host_status=7"),
        ({"ending": Ending.CANCELLED}, "CANCELLED"),
        ({"ending": 200}, "ending 200"),
        ({"retries": 2}, "GOOD  retries=2"),
        ({"incomplete": 1}, "GOOD  records of calls lost"),
    ],
)
def test_what_went_wrong_is_in_the_first_line(fields: dict[str, int], said: str) -> None:
    assert f"4 KiB  {said} " in tree(traces(write(**fields)))[0]


def test_names_that_are_not_known_are_numbers() -> None:
    first, _, call = tree(traces(write()), Names())

    assert first.startswith(f"WRITE  pid 4711 0x{builders.DEVICE:x}  lba")
    assert f"0x{builders.IMAGE:x}" in call


def test_names_cannot_steer_the_terminal() -> None:
    evil = "\x1b[31m\r\nx\u202e\x9b\x7f"
    disk = Disk("a", target=evil, pool=evil, image=evil)
    names = Names(
        {builders.PID: Guest(builders.PID, "", name=evil)},
        {(builders.PID, builders.DEVICE): disk},
        {(builders.PID, builders.IMAGE): disk},
    )

    text = "".join(tree(traces(write(), orphans=[Call(join=Join.INTERNAL)]), names))

    assert text.isprintable()
    assert "\\x1b[31m\\r\\nx\\u202e\\x9b\\x7f" in text


def test_long_names_are_cut() -> None:
    assert printable("é" * 500) == "é" * 31 + "…"


def test_a_trace_of_nothing_is_no_line() -> None:
    assert tree(traces()) == []


def test_an_unknown_operation_is_a_number() -> None:
    orphan = Call(join=Join.INTERNAL, fields={"operation": 77})

    assert tree(traces(orphans=[orphan]))[0].startswith("rbd.operation_77  ")


@pytest.mark.parametrize(
    ("duration_s", "said"),
    [(0, "0 µs"), (412e-6, "412 µs"), (0.0009996, "1 ms"), (0.99951, "1 s"), (1.254, "1.25 s"), (12345.6, "12346 s")],
)
def test_durations_have_three_digits(duration_s: float, said: str) -> None:
    assert duration_text(duration_s) == said


@pytest.mark.parametrize(
    ("size_bytes", "said"), [(0, "0 B"), (513, "513 B"), (4096, "4 KiB"), (1536 * 1024, "1.5 MiB"), (2**30, "1 GiB")]
)
def test_sizes_are_exact(size_bytes: int, said: str) -> None:
    assert size_text(size_bytes) == said


def test_results_are_named() -> None:
    assert [result_text(value) for value in (4096, -110, -9999, RETURN_UNKNOWN)] == ["4096", "-ETIMEDOUT", "-9999", "?"]
