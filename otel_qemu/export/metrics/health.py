# SPDX-License-Identifier: Apache-2.0
"""What we say about ourselves, by the SDK's instruments: events and losses, joins, traces and spans, CPU and memory."""

import resource
from collections.abc import Iterable, Iterator, Mapping
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
from otel_qemu.export.metrics.instruments import OWN_INSTRUMENTS, Instrument, InstrumentKind
from otel_qemu.export.metrics.series_names import Attributes
from otel_qemu.probe.process_memory import resident_bytes
from otel_qemu.trace.correlate import Stats
from otel_qemu.trace.measurements import Snapshot
from otel_qemu.trace.traces import Join

Numbers = dict[tuple[str, Attributes], int]
"""By instrument and attributes; in ns where the unit is s."""


class Health:
    """
    Instruments that observe our last numbers.

    Args:
        resource: ours.
        delta: kinds of which only what is new is collected.
    """

    def __init__(self, resource: Resource, delta: frozenset[InstrumentKind]) -> None:
        self._resource = resource
        self._is_delta = InstrumentKind.COUNTER in delta
        temporality = AggregationTemporality.DELTA if self._is_delta else AggregationTemporality.CUMULATIVE
        self._reader = InMemoryMetricReader(preferred_temporality={ObservableCounter: temporality})
        self._numbers: Numbers = {}
        self._unsent: dict[Any, NumberDataPoint] = {}
        self._provider = MeterProvider([self._reader], resource, AlwaysOffExemplarFilter(), shutdown_on_exit=False)
        meter = self._provider.get_meter(semconv.SCOPE_NAME, __version__)
        for each in OWN_INSTRUMENTS:
            create = getattr(meter, f"create_observable_{each.kind}")
            create(each.name, [partial(self._observe, each)], each.unit, each.description)

    def observe(self, numbers: Numbers) -> None:
        """These are the numbers now."""
        self._numbers = numbers

    def _observe(self, instrument: Instrument, _: CallbackOptions) -> Iterator[Observation]:
        for (name, attributes), number in self._numbers.items():
            if name == instrument.name:
                yield Observation(number / 1e9 if instrument.unit == "s" else number, dict(attributes))

    def entries(self) -> list[Entry]:
        """All that the instruments observe; a delta includes earlier ones that have not arrived."""
        data = self._reader.get_metrics_data()
        metrics: list[Any] = [
            metric
            for its in (data.resource_metrics if data else ())
            for scoped in its.scope_metrics
            if scoped.scope.name == semconv.SCOPE_NAME  # the SDK may have metrics of its own there
            for metric in scoped.metrics
        ]
        return [entry for metric in metrics for entry in self._owed(metric)]

    def _owed(self, metric: Any) -> Iterator[Entry]:
        empty = replace(metric, data=replace(metric.data, data_points=()))
        is_delta = self._is_delta and getattr(metric.data, "is_monotonic", False)
        for point in metric.data.data_points:
            key, new = _key(metric, point), point
            if is_delta and (before := self._unsent.get(key)):
                new = replace(new, start_time_unix_nano=before.start_time_unix_nano, value=before.value + new.value)
            if is_delta:
                self._unsent[key] = new
            if new.value or not is_delta:
                yield Entry(self._resource, empty, new)

    def deliver(self, entries: Iterable[Entry]) -> None:
        """These have arrived."""
        for entry in entries:
            self._unsent.pop(_key(entry.metric, entry.data_point), None)


def _key(metric: Any, data_point: Any) -> Any:
    return metric.name, frozenset(data_point.attributes.items())


def of_snapshot(snapshot: Snapshot) -> Numbers:
    """What the kernel counted, the correlator joined, and is attached."""
    return {
        **_of_kernel(snapshot.counters),
        **_of_correlator(snapshot.correlated),
        (semconv.PROBES_ATTACHED, ()): snapshot.probes,
        (semconv.PROCESSES_TRACED, ()): len(snapshot.processes),
    }


def _of_kernel(counters: Mapping[str, int]) -> Numbers:
    return {
        (semconv.BPF_EVENTS_LOST if name in LOSSES else semconv.BPF_EVENTS, ((semconv.BPF_EVENT, name),)): count
        for name, count in counters.items()
    }


def _of_correlator(stats: Stats) -> Numbers:
    joins: Numbers = {(semconv.CORRELATED_CALLS, ((semconv.JOIN, join.label),)): stats.by_join[join] for join in Join}
    return {
        **joins,
        (semconv.DISAGREEMENTS, ()): stats.disagreements,
        (semconv.INCOMPLETE_REQUESTS, ()): stats.incomplete,
    }


def of_traces(stats: fates.Stats) -> Numbers:
    """What became of traces and spans; those that were never to be sent are nobody's loss."""
    numbers: Numbers = {
        (semconv.SPANS_SENT, ()): stats[Fate.SENT].spans,
        (semconv.TRACES_SENT, ()): stats[Fate.SENT].traces,
        (semconv.SPANS_QUEUED, ()): stats[Fate.WAITING].spans,
    }
    for fate in fates.LOSSES:
        reason = ((semconv.REASON, fate.value),)
        numbers[semconv.SPANS_LOST, reason] = stats[fate].spans
        numbers[semconv.TRACES_LOST, reason] = stats[fate].traces
    return numbers


def of_process() -> Numbers:
    """CPU time and resident memory of this process."""
    return dict(_process())


def _process() -> Iterator[tuple[tuple[str, Attributes], int]]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    for mode, time_s in (("user", usage.ru_utime), ("system", usage.ru_stime)):
        yield (semconv.PROCESS_CPU_TIME, ((semconv.CPU_MODE, mode),)), round(time_s * 1e9)
    yield (semconv.PROCESS_MEMORY_USAGE, ()), resident_bytes()
