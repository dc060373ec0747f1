# SPDX-License-Identifier: Apache-2.0
"""JSON lines: the fields and types that other programs rely on."""

import json
from typing import Any

import pytest

from otel_qemu.events import RETURN_UNKNOWN, Ending, RbdOperation
from otel_qemu.trace.histograms import Histograms
from otel_qemu.trace.names import Names
from otel_qemu.trace.traces import Join, Traces
from otel_qemu.views.json_lines import histogram_line, trace_lines
from tests.support import builders
from tests.support.builders import UNIX_OFFSET_NS, Call, Request, traces, write


def lines(part: Traces, names: Names | None = None) -> list[Any]:
    """The lines, once through JSON: numpy's numbers would not pass."""
    return [json.loads(json.dumps(line)) for line in trace_lines(part, names or builders.names())]


def test_a_write_is_the_contract() -> None:
    (line,) = lines(traces(write()))

    assert len(line.pop("trace_id")) == 32
    assert line == {
        "domain": "alpha",
        "pid": 4711,
        "disk": "ua-ceph-root",
        "operation": "WRITE",
        "lba": 2048,
        "bytes": 4096,
        "status": "GOOD",
        "start_unix_ns": UNIX_OFFSET_NS + 1_000_000,
        "duration_ns": 412_000,
        "wait_ns": 18_000,
        "rbd_ns": 371_000,
        "completion_ns": 23_000,
        "join": "walk+range",
        "children": [
            {
                "operation": "write",
                "image": "rbd/alpha-root",
                "offset": 1_048_576,
                "length": 4096,
                "start_unix_ns": UNIX_OFFSET_NS + 1_018_000,
                "duration_ns": 371_000,
                "return_value": 0,
            }
        ],
    }


def test_an_orphan_is_a_line_with_one_child_and_its_reason() -> None:
    request, orphan = lines(traces(write(), orphans=[Call(RbdOperation.READ, join=Join.STARTED_BEFORE)]))

    assert request.keys() == orphan.keys()
    assert (orphan["operation"], orphan["join"], orphan["disk"]) == (None, "started_before", "ua-ceph-root")
    assert [child["operation"] for child in orphan["children"]] == ["read"]
    assert orphan["duration_ns"] == orphan["children"][0]["duration_ns"] == 371_000


def test_an_orphan_of_an_unknown_image_has_no_disk() -> None:
    (orphan,) = lines(traces(orphans=[Call(join=Join.INTERNAL)]), Names())

    assert (orphan["disk"], orphan["domain"]) == (None, "pid 4711")
    assert orphan["children"][0]["image"] == f"0x{builders.IMAGE:x}"


@pytest.mark.parametrize(
    ("joins", "weakest"),
    [
        ((), None),
        ((Join.WALK_RANGE,), "walk+range"),
        ((Join.WALK, Join.WALK_RANGE), "walk"),
        ((Join.WALK, Join.RANGE, Join.WALK_RANGE), "range"),
        ((Join.TIME, Join.RANGE), "time"),
    ],
)
def test_a_request_is_joined_as_surely_as_its_weakest_call(joins: tuple[Join, ...], weakest: str | None) -> None:
    (line,) = lines(traces(Request("READ", 1, calls=tuple(Call(join=join) for join in joins))))

    assert line["join"] == weakest


def test_what_was_not_seen_is_null() -> None:
    call = Call(duration_ns=None, fields={"return_value": RETURN_UNKNOWN})

    (child,) = lines(traces(Request(calls=(call,))))[0]["children"]

    assert (child["duration_ns"], child["return_value"]) == (None, None)


def test_the_parts_of_a_duration_add_up() -> None:
    calls = (Call(submit_ns=10, duration_ns=100), Call(submit_ns=50, duration_ns=100), Call(submit_ns=300))

    (line,) = lines(traces(Request(submit_ns=1, duration_ns=500_000, calls=calls)))

    assert line["wait_ns"] + line["rbd_ns"] + line["completion_ns"] == line["duration_ns"]


def test_status_of_a_request_that_did_not_complete_is_how_it_ended() -> None:
    parts = traces(*(write(ending=ending, status=2) for ending in Ending))

    assert [line["status"] for line in lines(parts)] == ["CHECK_CONDITION", "FAILED", "CANCELLED", "LOST", "HUNG"]


def test_ids_are_the_same_in_any_cut_and_different_for_each_trace() -> None:
    requests = [Request("READ", submit_ns, calls=(Call(),)) for submit_ns in range(1, 24)]
    requests = [Request("READ", r.submit_ns, fields={"request": 77}) for r in requests]
    orphans = [Call(submit_ns=submit_ns, join=Join.INTERNAL) for submit_ns in range(1, 24)]

    whole = [line["trace_id"] for line in lines(traces(*requests, orphans=orphans))]
    alone = [lines(traces(request))[0]["trace_id"] for request in requests]

    assert whole[:23] == alone
    assert len(set(whole)) == 46
    assert all(set(trace_id) <= set("0123456789abcdef") for trace_id in whole)


def test_nothing_is_no_line() -> None:
    assert lines(traces()) == []


def test_a_histogram_is_the_contract() -> None:
    histograms = Histograms((0.001, 0.01))
    histograms.add(traces(write(), orphans=[Call(join=Join.INTERNAL)]))

    first, *_, last = (json.loads(json.dumps(histogram_line(row))) for row in histograms.rows(builders.names()))

    assert first == {
        "domain": "alpha",
        "pid": 4711,
        "disk": "ua-ceph-root",
        "layer": "scsi",
        "operation": "WRITE",
        "count": 1,
        "sum_s": 412e-6,
        "bounds_s": [0.001, 0.01],
        "counts": [1, 0, 0],
    }
    assert (last["disk"], last["layer"], last["operation"]) == (None, "rbd", "write")
