# SPDX-License-Identifier: Apache-2.0
"""
A trace as indented text: the request, where its time went, and its calls.

Times of one trace are all in one unit, so that the eye can add them up.
"""

from collections.abc import Iterator
from typing import Any

from otel_qemu.events import Ending
from otel_qemu.trace.names import Disk, Names
from otel_qemu.trace.scsi import OPERATIONS
from otel_qemu.trace.traces import Join, Traces
from otel_qemu.views.words import (
    image_name,
    printable,
    rbd_function,
    request_status,
    result_text,
    sense_text,
    size_text,
    unit_for,
)

# Columns: what it is, its start within the request, its duration, how it was joined.  Longer names move what follows.
_TITLE, _START, _DURATION = 58, 9, 12
_DECIMALS = {"µs": 1, "ms": 3, "s": 3}
_CHECK_CONDITION = 2

Unit = tuple[str, float]


def tree_lines(traces: Traces, names: Names) -> Iterator[str]:
    """
    Each request with its calls below it, then the calls without parent; within 100 columns, but for long names.

        WRITE  alpha sda (rbd/alpha-root)  lba=2048 4 KiB  GOOD               412.0 µs
          = wait 18.0 + rbd 371.0 + completion 23.0
          └ rbd.aio_write  rbd/alpha-root  1048576+4096 = 0          +18.0    371.0 µs  walk+range
    """
    for index, request in enumerate(traces.requests):
        yield from _request_lines(request, traces.calls_of(index), names)
    for call in traces.orphans:
        yield _orphan_line(call, names)


def _request_lines(request: Any, calls: Any, names: Names) -> Iterator[str]:
    duration_ns = int(request["complete_ns"]) - int(request["submit_ns"])
    unit = unit_for(duration_ns / 1e9)
    title_width = _TITLE + _START - 1  # a space at least before the duration
    yield f"{_request_title(request, names):<{title_width}} {_with_unit(duration_ns, unit):>{_DURATION}}"
    yield f"  = {_split(request, unit)}" if len(calls) else "  = no RBD call"
    for call in calls[:-1]:
        yield _child_line("├", request, call, names, unit)
    for call in calls[-1:]:
        yield _child_line("└", request, call, names, unit)


def _request_title(request: Any, names: Names) -> str:
    guest = names.guest(int(request["pid"]))
    disk = names.disk(guest.pid, int(request["device"]))
    parts = [
        OPERATIONS[request["operation"]],
        f"{printable(guest.label)} {_disk(disk)}",
        _range(request),
        _status(request),
        f"retries={int(request['retries'])}" if request["retries"] else "",
        "records of calls lost" if request["incomplete"] else "",
    ]
    return "  ".join(filter(None, parts))


def _disk(disk: Disk) -> str:
    image = image_name(disk)
    return printable(disk.target or disk.alias) + (f" ({printable(image)})" if image else "")


def _range(request: Any) -> str:
    # Commands such as INQUIRY have no address; one of 0 is shown only where it is one.
    lba = f"lba={int(request['lba'])}" if request["lba"] or request["block_bytes"] else ""
    return " ".join(filter(None, [lba, size_text(int(request["bytes"])) if request["bytes"] else ""]))


def _status(request: Any) -> str:
    status = request_status(request)
    if request["ending"] == Ending.FAILED:
        return f"{status} host_status={int(request['host_status'])}"
    checked = request["ending"] == Ending.COMPLETED and request["status"] == _CHECK_CONDITION
    return f"{status} {sense_text(request)}" if checked else status


def _split(request: Any, unit: Unit) -> str:
    return " + ".join(f"{part} {_number(int(request[f'{part}_ns']), unit)}" for part in ("wait", "rbd", "completion"))


def _child_line(branch: str, request: Any, call: Any, names: Names, unit: Unit) -> str:
    start = _number(int(call["submit_ns"]) - int(request["submit_ns"]), unit)
    title = f"  {branch} {_call_title(call, names)}"
    rule = Join(call["join"]).label + (" disagrees" if call["disagrees"] else "")
    return f"{title:<{_TITLE - 1}} {'+' + start:>{_START}}{_call_duration(call, unit):>{_DURATION}}  {rule}"


def _orphan_line(call: Any, names: Names) -> str:
    unit = unit_for((int(call["complete_ns"]) - int(call["submit_ns"])) / 1e9 if call["complete_ns"] else 0.0)
    title = f"{_call_title(call, names):<{_TITLE - 1}} {_call_duration(call, unit):>{_DURATION}}"
    return f"{title}  no request: {Join(call['join']).label.replace('_', ' ')}"


def _call_title(call: Any, names: Names) -> str:
    image = image_name(names.image(int(call["pid"]), int(call["image"]))) or f"0x{int(call['image']):x}"
    parts = [rbd_function(int(call["operation"])), printable(image)]
    if call["length"]:  # a flush has no range
        parts.append(f"{int(call['offset'])}+{int(call['length'])}")
    return f"{'  '.join(parts)} = {result_text(int(call['return_value']))}"


def _call_duration(call: Any, unit: Unit) -> str:
    return _with_unit(int(call["complete_ns"]) - int(call["submit_ns"]), unit) if call["complete_ns"] else "not ended"


def _with_unit(duration_ns: int, unit: Unit) -> str:
    return f"{_number(duration_ns, unit)} {unit[0]}"


def _number(duration_ns: int, unit: Unit) -> str:
    return f"{duration_ns / 1e9 / unit[1]:.{_DECIMALS[unit[0]]}f}"
