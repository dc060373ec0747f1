# SPDX-License-Identifier: Apache-2.0
"""What we say about ourselves, by the SDK's instruments: events and losses, joins, traces and spans, CPU and memory."""

import resource
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider, ObservableCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.resources import Resource

from otel_qemu import __version__
from otel_qemu.events import LOSSES
from otel_qemu.export import semconv
from otel_qemu.export.delivery import fates
from otel_qemu.export.delivery.fates import Fate
from otel_qemu.export.metrics.entries import Entry
from otel_qemu.export.metrics.instruments import OWN_INSTRUMENTS, Instrument
from otel_qemu.probe.process_memory import resident_bytes
from otel_qemu.trace.measurements import Snapshot
from otel_qemu.trace.traces import Join

Numbers = dict[str, float | Mapping[str, float]]
"""By instrument, and by the value of its attribute where it has one; in the instrument's unit."""


class Health:
    """
    Instruments that observe our last numbers.

    Args:
        resource: ours.
        delta: metrics of which only what is new is collected.
    """

    def __init__(self, resource: Resource, delta: frozenset[str]) -> None:
        self._resource = resource
        self._delta = delta
        self._numbers: Numbers = {}
        self._unsent: dict[Any, NumberDataPoint] = {}
        is_delta = semconv.BPF_EVENTS in delta  # as all counters are
        temporality = AggregationTemporality.DELTA if is_delta else AggregationTemporality.CUMULATIVE
        self._reader = InMemoryMetricReader(preferred_temporality={ObservableCounter: temporality})
        provider = MeterProvider([self._reader], resource, AlwaysOffExemplarFilter(), shutdown_on_exit=False)
        meter = provider.get_meter(semconv.SCOPE_NAME, __version__)
        for each in OWN_INSTRUMENTS:
            create = getattr(meter, f"create_observable_{each.kind}")
            create(each.name, [partial(self._observe, each)], each.unit, each.description)

    def observe(self, numbers: Numbers) -> None:
        """These are the numbers now."""
        self._numbers = numbers

    def _observe(self, instrument: Instrument, _: CallbackOptions) -> list[Observation]:
        numbers = self._numbers.get(instrument.name, {})
        if isinstance(numbers, Mapping):
            return [Observation(number, {instrument.attributes[0]: value}) for value, number in numbers.items()]
        return [Observation(numbers)]

    def entries(self) -> list[Entry]:
        """All that the instruments observe; a delta includes earlier ones that have not arrived."""
        data = self._reader.get_metrics_data()
        return [
            Entry(self._resource, metric, owed)
            for its in (data.resource_metrics if data else ())
            for scoped in its.scope_metrics
            if scoped.scope.name == semconv.SCOPE_NAME  # the SDK may have metrics of its own there
            for metric in scoped.metrics
            for point in metric.data.data_points
            if (owed := self._owed(metric.name, point))
        ]

    def _owed(self, metric: str, point: Any) -> NumberDataPoint | None:
        if metric in self._delta:
            key = _key(metric, point)
            if before := self._unsent.get(key):
                start_unix_ns, value = before.start_time_unix_nano, before.value + point.value
                point = replace(point, start_time_unix_nano=start_unix_ns, value=value)
            self._unsent[key] = point
            return point if point.value else None
        return point

    def deliver(self, entries: Iterable[Entry]) -> None:
        """These have arrived."""
        for entry in entries:
            self._unsent.pop(_key(entry.metric.name, entry.data_point), None)


def _key(metric: str, point: Any) -> Any:
    return metric, frozenset(point.attributes.items())


def of_snapshot(snapshot: Snapshot) -> Numbers:
    """What the kernel counted, the correlator joined, and is attached; CPU time and memory of this process."""
    joined, usage = snapshot.correlated, resource.getrusage(resource.RUSAGE_SELF)
    return {
        semconv.BPF_EVENTS: {name: count for name, count in snapshot.counters.items() if name not in LOSSES},
        semconv.BPF_EVENTS_LOST: {name: count for name, count in snapshot.counters.items() if name in LOSSES},
        semconv.CORRELATED_CALLS: {join.label: joined.by_join[join] for join in Join},
        semconv.DISAGREEMENTS: joined.disagreements,
        semconv.INCOMPLETE_REQUESTS: joined.incomplete,
        semconv.PROBES_ATTACHED: snapshot.probes,
        semconv.PROCESSES_TRACED: len(snapshot.processes),
        semconv.PROCESS_CPU_TIME: {"user": usage.ru_utime, "system": usage.ru_stime},
        semconv.PROCESS_MEMORY_USAGE: resident_bytes(),
    }


def of_traces(stats: fates.Stats, shed: int) -> Numbers:
    """
    What became of traces and spans; those that were never to be sent are nobody's loss.

    Args:
        stats: of the client of traces.
        shed: traces that the sampler has left out, above the rate of their guest.
    """
    return {
        semconv.SPANS_SENT: stats[Fate.SENT].spans,
        semconv.SPANS_LOST: {fate.value: stats[fate].spans for fate in fates.LOSSES},
        semconv.SPANS_QUEUED: stats[Fate.WAITING].spans,
        semconv.TRACES_SENT: stats[Fate.SENT].traces,
        semconv.TRACES_LOST: {fate.value: stats[fate].traces for fate in fates.LOSSES},
        semconv.TRACES_SHED: shed,
    }
