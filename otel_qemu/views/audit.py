"""What an audit found, as lines that a person reads."""

from collections.abc import Iterator

import numpy as np

from otel_qemu.events import RbdOperation
from otel_qemu.trace.audit import Audit, Difference, Tally
from otel_qemu.trace.correlate import Stats
from otel_qemu.trace.scsi import OPERATIONS
from otel_qemu.trace.traces import Join

MOST_EXPLAINED = 10
"""How many differences of each comparison are explained; the rest are only counted."""


def audit_lines(audit: Audit, stats: Stats) -> Iterator[str]:
    """
    The report.

    Args:
        audit: that has been finished.
        stats: of the correlator whose joins it compared.
    """
    yield f"audit: the exact chain's verdict on {audit.verdicts} RBD calls"
    yield from _table("joins", audit.joins)
    yield from _table("without the walk", audit.unwalked)
    yield (
        f"  walk and range disagree: {stats.range_differs} of {stats.joined} joins; "
        f"walk and image, direction or time: {stats.disagreements}"
    )
    for why, count in audit.silences.most_common():
        yield f"  silent, {count}: {why}"
    for differences, tallies in ((audit.differences, audit.joins), (audit.unwalked_differences, audit.unwalked)):
        wrong_first = sorted(differences, key=lambda difference: difference.outcome)
        yield from (f"  {difference_line(difference)}" for difference in wrong_first[:MOST_EXPLAINED])
        count = sum(tally.differ + tally.missed for tally in tallies.values())
        if count > MOST_EXPLAINED:
            yield f"  ... and {count - MOST_EXPLAINED} more like these"


def _table(title: str, tallies: dict[Join, Tally]) -> Iterator[str]:
    yield f"  {title:<18}{'agreed':>10}{'differ':>10}{'missed':>10}{'silent':>10}"
    for join, tally in sorted(tallies.items()):
        numbers = (tally.agreed, tally.differ, tally.missed, tally.silent)
        yield f"    {join.label:<16}" + "".join(f"{number:>10}" for number in numbers)


def difference_line(difference: Difference) -> str:
    """One difference, in one line: the call, what was made of it, and what the chain says."""
    call = difference.call
    operation = int(call["operation"])
    name = RbdOperation(operation).name.lower() if operation in list(RbdOperation) else "call"
    ours = difference.ours
    said = f"joined to {_request(ours, call)}" if ours is not None else "left alone"
    how = "" if difference.walked else " (without the walk)"
    where = f"{int(call['offset'])}+{int(call['length'])} of image 0x{int(call['image']):x}, process {int(call['pid'])}"
    return f"{difference.join.label}{how}: rbd.{name} {where}: {said}; the chain says {_chain(difference)}"


def _chain(difference: Difference) -> str:
    if difference.theirs is not None:
        return _request(difference.theirs, difference.call)
    if not difference.request:
        return "it was made for no SCSI request"
    return f"0x{difference.request:x}{_before(difference.submit_ns, difference.call)}"


def _request(request: np.void, call: np.void) -> str:
    what = f"{OPERATIONS[int(request['operation'])]} lba={int(request['lba'])} {int(request['bytes'])} bytes"
    return f"{what} 0x{int(request['request']):x}{_before(int(request['submit_ns']), call)}"


def _before(submit_ns: int, call: np.void) -> str:
    return f", submitted {(int(call['submit_ns']) - submit_ns) / 1e6:.3f} ms before"
