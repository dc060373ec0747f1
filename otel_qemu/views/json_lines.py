# SPDX-License-Identifier: Apache-2.0
"""
Traces and histograms as plain data, an object a line: the contract of ``replay --json`` and ``hist --json``.
"""

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

from otel_qemu.events import RETURN_UNKNOWN
from otel_qemu.trace.histograms import HistogramRow, rbd_operation
from otel_qemu.trace.names import Names
from otel_qemu.trace.scsi import OPERATIONS
from otel_qemu.trace.traces import Join, Traces
from otel_qemu.views.words import image_name, request_status, weakest_join


def trace_lines(traces: Traces, names: Names) -> Iterator[dict[str, Any]]:
    """
    A line a request, then a line a call without parent.

    ``trace_id`` is 32 hex digits made of what identifies the request: the same in every replay, however the records
    were cut into batches, but not the id that was exported while recording.  ``join`` of a request is the least
    certain one of its calls, or null without calls; of a call without parent, the reason.  ``status`` of a request
    that did not complete is how it ended: ``FAILED``, ``CANCELLED``, ``LOST``, ``HUNG``.  A call that had not ended
    with its request has ``duration_ns`` null, and a result that was not seen is null.
    """
    for index, request in enumerate(traces.requests):
        yield _request_line(traces, names, index, request)
    for call in traces.orphans:
        yield _orphan_line(traces, names, call)


def _request_line(traces: Traces, names: Names, index: int, request: Any) -> dict[str, Any]:
    calls = traces.calls_of(index)
    pid, device, submit_ns = (int(request[name]) for name in ("pid", "device", "submit_ns"))
    join = weakest_join(calls["join"].tolist())
    return {
        "trace_id": _trace_id("request", pid, int(request["request"]), submit_ns),
        "domain": names.guest(pid).label,
        "pid": pid,
        "disk": names.disk(pid, device).alias,
        "operation": OPERATIONS[request["operation"]],
        "lba": int(request["lba"]),
        "bytes": int(request["bytes"]),
        "status": request_status(request),
        "start_unix_ns": submit_ns + traces.unix_offset_ns,
        "duration_ns": int(request["complete_ns"]) - submit_ns,
        "wait_ns": int(request["wait_ns"]),
        "rbd_ns": int(request["rbd_ns"]),
        "completion_ns": int(request["completion_ns"]),
        "join": join.label if join else None,
        "children": [_child(traces, names, call) for call in calls],
    }


def _orphan_line(traces: Traces, names: Names, call: Any) -> dict[str, Any]:
    pid, submit_ns = int(call["pid"]), int(call["submit_ns"])
    child = _child(traces, names, call)
    return {
        "trace_id": _trace_id("call", pid, int(call["image"]), submit_ns, int(call["offset"]), int(call["length"])),
        "domain": names.guest(pid).label,
        "pid": pid,
        "disk": names.image(pid, int(call["image"])).alias or None,
        "operation": None,
        "lba": None,
        "bytes": None,
        "status": None,
        "start_unix_ns": child["start_unix_ns"],
        "duration_ns": child["duration_ns"],
        "wait_ns": None,
        "rbd_ns": child["duration_ns"],
        "completion_ns": None,
        "join": Join(call["join"]).label,
        "children": [child],
    }


def _child(traces: Traces, names: Names, call: Any) -> dict[str, Any]:
    submit_ns, complete_ns, value = (int(call[name]) for name in ("submit_ns", "complete_ns", "return_value"))
    return {
        "operation": rbd_operation(int(call["operation"])),
        "image": image_name(names.image(int(call["pid"]), int(call["image"]))),
        "offset": int(call["offset"]),
        "length": int(call["length"]),
        "start_unix_ns": submit_ns + traces.unix_offset_ns,
        "duration_ns": complete_ns - submit_ns if complete_ns else None,
        "return_value": None if value == RETURN_UNKNOWN else value,
    }


def _trace_id(*identity: str | int) -> str:
    # Hashed, and not made of the numbers themselves: samplers need ids that are evenly spread, and nobody needs
    # QEMU's pointers.
    return blake2b(repr(identity).encode(), digest_size=16).hexdigest()


def histogram_line(row: HistogramRow) -> dict[str, Any]:
    """One histogram as plain data; ``disk`` is null for calls without a parent."""
    return {name: value for name, value in vars(row).items() if name not in ("target", "device")}
