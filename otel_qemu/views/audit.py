# SPDX-License-Identifier: Apache-2.0
"""What an audit found, as lines that a person reads."""

from collections.abc import Iterator, Mapping

import numpy as np

from otel_qemu.trace.audit import Audit, Difference, Tally
from otel_qemu.trace.audit_verdicts import Outcome
from otel_qemu.trace.correlate import Stats
from otel_qemu.trace.scsi import OPERATIONS
from otel_qemu.trace.traces import Join
from otel_qemu.views.words import rbd_function

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
        count = sum(tally[Outcome.DIFFER] + tally[Outcome.MISSED] for tally in tallies.values())
        if count > MOST_EXPLAINED:
            yield f"  ... and {count - MOST_EXPLAINED} more like these"


def _table(title: str, tallies: Mapping[Join, Tally]) -> Iterator[str]:
    yield f"  {title:<18}" + "".join(f"{outcome.name.lower():>10}" for outcome in Outcome)
    for join, tally in sorted(tallies.items()):
        yield f"    {join.label:<16}" + "".join(f"{tally[outcome]:>10}" for outcome in Outcome)


def difference_line(difference: Difference) -> str:
    """One difference, in one line: the call, what was made of it, and what the chain says."""
    call = difference.call
    ours = difference.ours
    said = f"joined to {_request(ours, call)}" if ours is not None else "left alone"
    how = "" if difference.walked else " (without the walk)"
    where = f"{int(call['offset'])}+{int(call['length'])} of image 0x{int(call['image']):x}, process {int(call['pid'])}"
    name = rbd_function(int(call["operation"]))
    return f"{difference.join.label}{how}: {name} {where}: {said}; the chain says {_chain(difference)}"


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
