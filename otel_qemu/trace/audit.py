# SPDX-License-Identifier: Apache-2.0
"""
Hold every join against the exact chain (``bpf/audit.bpf.c``), rule by rule: batches and traces in, counts out.

For each call the chain's verdict comes in the stream of records, before the call's own.  What the rules without a walk
would have made of the same records is found by a second correlator, which is given them with the walks taken out.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace

import numpy as np

from otel_qemu.events import RECORD, Batch, Link, RecordKind, Records
from otel_qemu.trace.audit_verdicts import Outcome, Verdicts, judge
from otel_qemu.trace.correlate import Correlator
from otel_qemu.trace.traces import Join, Table, Traces

MOST_DIFFERENCES = 100
"""Wrong and missed joins of each of the two comparisons that are kept to be explained; all are counted."""


Tally = Counter[Outcome]
"""How the calls of one rule fared."""


@dataclass(frozen=True)
class Difference:
    """
    A call of which rule and chain say different things.

    Attributes:
        outcome: DIFFER or MISSED.
        walked: whether the kernel's walk was to be had; else it is the rules by themselves.
        join: what the correlator says.
        call: a row of `CALL`.
        ours: the row of `REQUEST` that it was joined to; None if to none.
        theirs: the row of the request that the chain names; None if it names none, or that is not at hand.
        request, submit_ns: the chain's request; 0 if it names none.
    """

    outcome: Outcome
    walked: bool
    join: Join
    call: np.void
    ours: np.void | None
    theirs: np.void | None
    request: int
    submit_ns: int


@dataclass
class Audit:
    """
    The comparison; feed it what the correlator is fed, and what comes out there.

    Attributes:
        joins: what became of the joins as they are, by rule or reason.
        unwalked: the same of the joins that the rules make without the walk.
        differences, unwalked_differences: the first of each.
        silences: why the chain did not tell, for how many calls.
        most_differences: wrong and missed joins of each of the two comparisons that are kept; all are counted.
    """

    joins: defaultdict[Join, Tally] = field(default_factory=lambda: defaultdict(Counter))
    unwalked: defaultdict[Join, Tally] = field(default_factory=lambda: defaultdict(Counter))
    differences: list[Difference] = field(default_factory=list)
    unwalked_differences: list[Difference] = field(default_factory=list)
    silences: Counter[str] = field(default_factory=Counter)
    most_differences: int = MOST_DIFFERENCES
    _verdicts: Verdicts = field(default_factory=Verdicts)
    _stand_in: Correlator = field(default_factory=Correlator)

    @property
    def verdicts(self) -> int:
        """How many the chain has given."""
        return self._verdicts.count

    def take(self, batch: Batch) -> Batch:
        """Keep a batch's verdicts; returns the others, which are the correlator's."""
        is_verdict = batch.records["kind"] == RecordKind.AUDIT
        rest = batch
        if is_verdict.any():
            self._verdicts.keep(batch.records[is_verdict])
            rest = replace(batch, records=batch.records[~is_verdict])
        if self.verdicts:
            self._compare(self._stand_in.feed(replace(rest, records=without_walk(rest.records))), walked=False)
        return rest

    def compare(self, traces: Traces) -> None:
        """Hold the correlator's joins against the verdicts."""
        if self.verdicts:
            self._compare(traces, walked=True)

    def finish(self) -> None:
        """Compare what the rules without walk still hold; the correlator's own `finish` has been compared."""
        if self.verdicts:
            self._compare(self._stand_in.finish(), walked=False)

    def _compare(self, traces: Traces, walked: bool) -> None:
        calls = traces.calls
        if not len(calls):
            return
        verdicts = self._verdicts.of(calls, comparison=0 if walked else 1)
        outcome, why = judge(traces, verdicts)
        tallies = self.joins if walked else self.unwalked
        pairs, counts = np.unique(np.stack((calls["join"], outcome)), axis=1, return_counts=True)
        for join, place, count in zip(*pairs.tolist(), counts.tolist(), strict=True):
            tallies[Join(join)][Outcome(place)] += count
        if walked:
            self.silences.update(why[outcome == Outcome.SILENT].tolist())
        differences = self.differences if walked else self.unwalked_differences
        for place in (Outcome.DIFFER, Outcome.MISSED):
            room = self.most_differences - sum(difference.outcome == place for difference in differences)
            rows = np.flatnonzero(outcome == place)[:room].tolist()
            differences += [_difference(traces, verdicts, row, place, walked) for row in rows]


def without_walk(records: Records) -> Records:
    """The same records as a kernel without the walk would have written them: calls by themselves, naming nobody."""
    requests, calls = (
        records[records["kind"] == RecordKind.REQUEST].copy(),
        records[records["kind"] == RecordKind.CALL].copy(),
    )
    held = requests[(requests["call_submit_ns"] > 0) & (requests["call_complete_ns"] > 0)]
    inner = np.zeros(len(held), dtype=RECORD)
    for name in ("pid", *_RBD_HALF):
        inner[name] = held[name]
    for name in (*_RBD_HALF, "link", "calls", "rbd_ns"):
        requests[name] = 0
    alone = np.concatenate((inner, calls))
    alone["kind"], alone["link"] = RecordKind.CALL, Link.NO_LAYOUT
    alone["request"], alone["submit_ns"], alone["device"] = 0, 0, 0
    return np.concatenate((requests, alone))


_RBD_HALF = ("operation", "return_value", "image", "call_submit_ns", "call_complete_ns", "offset", "length")


def _difference(traces: Traces, verdicts: Table, row: int, outcome: Outcome, walked: bool) -> Difference:
    call, verdict = traces.calls[row], verdicts[row]
    parent, requests = int(call["parent"]), traces.requests
    is_theirs = requests["pid"] == verdict["pid"]
    for name in ("request", "submit_ns"):
        is_theirs &= requests[name] == verdict[name]
    theirs = np.flatnonzero(is_theirs)
    return Difference(
        outcome,
        walked,
        Join(int(call["join"])),
        call.copy(),
        requests[parent].copy() if parent >= 0 else None,
        requests[theirs[0]].copy() if len(theirs) else None,
        int(verdict["request"]),
        int(verdict["submit_ns"]),
    )
