# SPDX-License-Identifier: Apache-2.0
"""
Whole traces into OTLP spans, serialised: one a SCSI request, one a librbd call, one a wait that is worth seeing.

In: a batch of `Traces` and what people call things.  Out: an `EncodedTrace` each, its root first.  Pure: the same input
and ids give the same bytes.  All is done by the column.  A span is a concatenation: ids and times (`wire.Block`), its
template (`span_templates`), its disk, its trace state, and the numbers that are its own.
"""

from collections.abc import Iterable
from itertools import accumulate, pairwise, repeat
from typing import NamedTuple

import numpy as np
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span

from otel_qemu.events import Ending
from otel_qemu.export.attributes import serialised_disk, serialised_image
from otel_qemu.export.resources import Resources
from otel_qemu.export.spans import span_fields, span_templates
from otel_qemu.export.spans.encoded import EncodedTrace
from otel_qemu.export.spans.ids import IdColumn, Ids
from otel_qemu.export.spans.span_fields import CHILD, ROOT
from otel_qemu.export.spans.wait_spans import Rows, find_waits
from otel_qemu.export.spans.wire import BytesCache, Field, Times, joined, unix_ns
from otel_qemu.policy import WaitThreshold
from otel_qemu.trace.names import Names
from otel_qemu.trace.sample import UNKNOWN
from otel_qemu.trace.traces import Join, Table, Traces

_SPANS = Field(ScopeSpans(spans=[Span()]))
_DEFAULT_THRESHOLD = WaitThreshold()


def encode(
    traces: Traces, names: Names, resources: Resources, ids: Ids, threshold: WaitThreshold = _DEFAULT_THRESHOLD
) -> list[EncodedTrace]:
    """
    Every trace of a batch: those of the requests, in their order, then one for each call without a request.

    Calls whose request was lost (`orphaned_calls`) are left out: half a trace looks like a whole one.

    Args:
        traces: whole traces; a request's ``submit_ns`` is not 0.
        names: of the guests, disks and images in them.
        resources: of the guests.
        ids: where trace and span ids come from.
        threshold: the least wait that has a span of its own.
    """
    encoder = _Encoder(names, resources, ids, traces.unix_offset_ns)
    calls = traces.calls
    alone = calls[(calls["parent"] < 0) & (calls["join"] != Join.PARENT_LOST)]
    of_requests = encoder.requests(traces.requests, calls[calls["parent"] >= 0], threshold)
    return of_requests + encoder.calls(alone)


def orphaned_calls(traces: Traces) -> int:
    """The number of calls that `encode` leaves out, because their request was lost on its way here."""
    return int(np.count_nonzero(traces.orphans["join"] == Join.PARENT_LOST))


class _Roots(NamedTuple):
    """The roots of a batch, and what the spans below take from them; each of shape (n,), disks serialised."""

    trace_ids: IdColumn
    span_ids: IdColumn
    thresholds: list[int]
    disks: list[bytes]


class _Encoder:
    """Encodes one batch; each name and resource is looked up once."""

    def __init__(self, names: Names, resources: Resources, ids: Ids, unix_offset_ns: int) -> None:
        self._ids = ids
        self._unix_offset_ns = unix_offset_ns
        self._disks = BytesCache[tuple[int, int]](lambda key: serialised_disk(names.disk(*key)))
        self._images = BytesCache[tuple[int, int]](lambda key: serialised_image(names.image(*key)))
        self._resources = BytesCache[int](lambda pid: resources.of(names.guest(pid)))

    def requests(self, requests: Table, calls: Table, threshold: WaitThreshold) -> list[EncodedTrace]:
        """Traces of requests, with their waits and calls."""
        if not len(requests):
            return []
        roots, waits = self._roots(requests), find_waits(requests, calls, threshold)
        parents = calls["parent"].astype(np.intp)
        ends_ns = np.where(calls["complete_ns"] > 0, calls["complete_ns"], requests["complete_ns"][parents])
        below = self._wait_spans(waits, roots) + self._call_spans(calls, parents, ends_ns, roots)
        owners = np.concatenate((np.arange(len(requests)), waits["request"], parents))
        counts, spans = _by_owner(owners, _SPANS.column(self._root_spans(requests, roots) + below))
        return self._traces(requests, roots.trace_ids, roots.span_ids, spans, counts)

    def calls(self, calls: Table) -> list[EncodedTrace]:
        """Traces of one call each; a call without an end has a duration of 0."""
        if not len(calls):
            return []
        trace_ids, span_ids = self._ids.trace_ids(calls["randomness"]), self._ids.span_ids(len(calls))
        times = self._times(calls["submit_ns"], calls["complete_ns"])
        spans = joined(
            ROOT.column(len(calls), trace_id=trace_ids, span_id=span_ids, **times),
            *self._of_calls(calls),
            span_templates.ROOT_STATES.column(calls["threshold"].tolist()),
        )
        return self._traces(calls, trace_ids, span_ids, _SPANS.column(spans), repeat(1))

    def _roots(self, requests: Table) -> _Roots:
        # A request that hangs claims no probability: nobody knows how many others there are.
        thresholds = np.where(requests["ending"] == Ending.HUNG, UNKNOWN, requests["threshold"])
        return _Roots(
            self._ids.trace_ids(requests["randomness"]),
            self._ids.span_ids(len(requests)),
            thresholds.tolist(),
            self._disks.column(_keys(requests, "device")),
        )

    def _root_spans(self, requests: Table, roots: _Roots) -> list[bytes]:
        times = self._times(requests["submit_ns"], requests["complete_ns"])
        return joined(
            ROOT.column(len(requests), trace_id=roots.trace_ids, span_id=roots.span_ids, **times),
            span_templates.REQUESTS.column(requests),
            roots.disks,
            span_templates.ROOT_STATES.column(roots.thresholds),
            *span_fields.of_requests(requests),
        )

    def _wait_spans(self, waits: Table, roots: _Roots) -> list[bytes]:
        disks = [roots.disks[root] for root in waits["request"].tolist()]
        return joined(
            self._below(roots, waits["request"], waits["begin_ns"], waits["end_ns"]),
            [span_templates.WAIT] * len(disks),
            disks,
        )

    def _call_spans(self, calls: Table, parents: Rows, ends_ns: Times, roots: _Roots) -> list[bytes]:
        return joined(self._below(roots, parents, calls["submit_ns"], ends_ns), *self._of_calls(calls))

    def _below(self, roots: _Roots, owners: Rows, begin_ns: Times, end_ns: Times) -> list[bytes]:
        """Ids, times and trace states of spans below roots, a row each."""
        shared = {"trace_id": roots.trace_ids[owners], "parent_id": roots.span_ids[owners]}
        own = {"span_id": self._ids.span_ids(len(owners)), **self._times(begin_ns, end_ns)}
        states = span_templates.STATES.column(roots.thresholds[root] for root in owners.tolist())
        return joined(CHILD.column(len(owners), **shared, **own), states)

    def _of_calls(self, calls: Table) -> tuple[list[bytes], ...]:
        template = span_templates.CALLS.column(calls, has_ended=calls["complete_ns"] > 0)
        return template, self._images.column(_keys(calls, "image")), *span_fields.of_calls(calls)

    def _traces(
        self, rows: Table, trace_ids: IdColumn, root_ids: IdColumn, spans: list[bytes], counts: Iterable[int]
    ) -> list[EncodedTrace]:
        resources = self._resources.column(rows["pid"].tolist())
        return list(map(EncodedTrace, trace_ids.tolist(), root_ids.tolist(), resources, spans, counts))

    def _times(self, begin_ns: Times, end_ns: Times) -> dict[str, Times]:
        """As Unix time; nothing ends before it begins."""
        last_ns = np.maximum(begin_ns, end_ns)
        return {"begin_ns": unix_ns(begin_ns, self._unix_offset_ns), "end_ns": unix_ns(last_ns, self._unix_offset_ns)}


def _keys(table: Table, pointer: str) -> Iterable[tuple[int, int]]:
    return zip(table["pid"].tolist(), table[pointer].tolist(), strict=True)


def _by_owner(owners: Rows, spans: list[bytes]) -> tuple[list[int], list[bytes]]:
    """The number of each owner's spans, and their concatenation in order; every owner has one or more."""
    ordered = [spans[row] for row in np.argsort(owners, kind="stable").tolist()]
    counts: list[int] = np.bincount(owners).tolist()
    ends = accumulate(counts, initial=0)
    return counts, [b"".join(ordered[begin:end]) for begin, end in pairwise(ends)]
