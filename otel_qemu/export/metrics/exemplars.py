# SPDX-License-Identifier: Apache-2.0
"""
Exemplars: for a histogram's bucket, the trace of a request that is in it, for people to look at.

Only traces that the endpoint has taken are shown, or links would lead nowhere: a trace waits here until its sender
says so, and is forgotten if it never does.  One a series and bucket, the slowest; the next export has others.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from opentelemetry.sdk.metrics import Exemplar

from otel_qemu.events import RETURN_UNKNOWN, Ending, Layer
from otel_qemu.export.metrics.series_names import SeriesName, kernel_series
from otel_qemu.export.spans.encoded import EncodedTrace
from otel_qemu.export.spans.error_type import GOOD
from otel_qemu.trace.histograms import in_ns
from otel_qemu.trace.names import Guest, Names
from otel_qemu.trace.traces import Traces, durations_ns

MOST_WAITING = 16_384
"""Traces that wait to be sent; of more, the oldest are forgotten."""

_RANDOMNESS = (1 << 56) - 1


class _Candidate(NamedTuple):
    series: SeriesName
    bucket: int
    value_ns: int
    ended_ns: int


class Exemplars:
    """
    A bounded reservoir; every method may be called from any thread.

    Args:
        bounds_s: of the histograms' buckets.
        resource_of: whose a guest's series are.
        most_waiting: traces that wait to be sent; of more, the oldest are forgotten.
    """

    def __init__(
        self, bounds_s: Sequence[float], resource_of: Callable[[Guest], bytes], most_waiting: int = MOST_WAITING
    ) -> None:
        self._most_waiting = most_waiting
        self._bounds_ns = in_ns(bounds_s)
        self._resource_of = resource_of
        self._waiting: OrderedDict[int, list[_Candidate]] = OrderedDict()
        self._sent: dict[tuple[SeriesName, int], tuple[_Candidate, bytes, bytes]] = {}
        """By series and bucket, with the ids of the trace and of its root."""
        self._lock = threading.Lock()

    def consider(self, traces: Traces, names: Names) -> None:
        """Remember the slowest of each series and bucket among traces that are about to be queued."""
        chosen = [*self._of_requests(traces, names), *self._of_calls(traces, names)]
        with self._lock:
            for randomness, candidate in chosen:
                self._waiting.setdefault(randomness, []).append(candidate)
                self._waiting.move_to_end(randomness)
            while len(self._waiting) > self._most_waiting:
                self._waiting.popitem(last=False)

    def on_sent(self, traces: Sequence[EncodedTrace]) -> None:
        """The endpoint has taken these."""
        with self._lock:
            for trace in traces:
                randomness = int.from_bytes(trace.trace_id, "big") & _RANDOMNESS
                for candidate in self._waiting.pop(randomness, ()):
                    key = (candidate.series, candidate.bucket)
                    if key not in self._sent or candidate.value_ns > self._sent[key][0].value_ns:
                        self._sent[key] = candidate, trace.trace_id, trace.root_id

    def collect(self, until_ns: int, unix_offset_ns: int) -> dict[SeriesName, list[Exemplar]]:
        """
        Those of each series since the last call, by bucket.

        Args:
            until_ns: what ended after this is left for the next call; CLOCK_MONOTONIC.
            unix_offset_ns: CLOCK_REALTIME minus that.
        """
        with self._lock:
            sent = [each for each in self._sent.values() if each[0].ended_ns <= until_ns]
            self._sent = {key: each for key, each in self._sent.items() if each[0].ended_ns > until_ns}
        found: dict[SeriesName, list[Exemplar]] = {}
        for candidate, *ids in sorted(sent, key=lambda each: each[0].bucket):
            trace_id, root_id = map(int.from_bytes, ids)
            time_unix_ns = candidate.ended_ns + unix_offset_ns
            exemplar = Exemplar({}, candidate.value_ns / 1e9, time_unix_ns, root_id, trace_id)
            found.setdefault(candidate.series, []).append(exemplar)
        return found

    def _of_requests(self, traces: Traces, names: Names) -> Iterator[tuple[int, _Candidate]]:
        rows = traces.requests
        ended = (rows["submit_ns"] > 0) & ~np.isin(rows["ending"], (Ending.LOST, Ending.HUNG))
        failed = (rows["ending"] != Ending.COMPLETED) | ~np.isin(rows["status"], GOOD)
        split = ended & (rows["calls"] > 0) & (rows["incomplete"] == 0)
        keys = rows["device"], rows["pid"], np.full(len(rows), Layer.SCSI, "u1"), rows["opcode"], failed
        measured = _Rows(keys, rows["randomness"], rows["complete_ns"])
        yield from self._chosen("duration", ended, durations_ns(rows), measured, names)
        yield from self._chosen("wait", split, rows["wait_ns"], measured, names)
        yield from self._chosen("completion", split, rows["completion_ns"], measured, names)

    def _of_calls(self, traces: Traces, names: Names) -> Iterator[tuple[int, _Candidate]]:
        rows, parent = traces.calls, traces.calls["parent"]
        joined = parent >= 0
        failed = (rows["return_value"] < 0) & (rows["return_value"] != RETURN_UNKNOWN)
        devices, randomness = np.zeros(len(rows), "u8"), rows["randomness"].copy()
        devices[joined] = traces.requests["device"][parent[joined]]
        randomness[joined] = traces.requests["randomness"][parent[joined]]
        keys = devices, rows["pid"], np.full(len(rows), Layer.RBD, "u1"), rows["operation"], failed
        measured, ended = _Rows(keys, randomness, rows["complete_ns"]), rows["complete_ns"] > 0
        yield from self._chosen("duration", ended, durations_ns(rows), measured, names)

    def _chosen(
        self, part: str, counted: NDArray[np.bool_], values_ns: NDArray[np.int64], rows: "_Rows", names: Names
    ) -> Iterator[tuple[int, _Candidate]]:
        """The slowest of each series and bucket; those without a trace id are passed over."""
        its = np.flatnonzero(counted & (rows.randomness > 0))
        buckets = np.searchsorted(self._bounds_ns, values_ns[its], side="left")
        keys = [*(column[its] for column in rows.keys), buckets]
        order = np.lexsort((-values_ns[its], *keys))
        is_first = np.ones(len(order), bool)
        is_first[1:] = np.any([np.diff(key[order]) != 0 for key in keys], axis=0)
        for at in order[is_first]:
            row, (*key, bucket) = its[at], (int(key[at]) for key in keys)
            series = kernel_series(key, names, self._resource_of)[part]
            yield int(rows.randomness[row]), _Candidate(series, bucket, int(values_ns[row]), int(rows.ended_ns[row]))


class _Rows(NamedTuple):
    """What of each row makes its series, column by column as `kernel_series` takes it, its trace and its end."""

    keys: tuple[Any, ...]
    randomness: Any
    ended_ns: Any
