"""What we say about ourselves: events and losses in the kernel, joins, traces and spans, CPU and memory."""

import resource
from collections.abc import Iterator, Mapping

from otel_qemu.events import LOSSES
from otel_qemu.export import semconv
from otel_qemu.export.delivery import fates
from otel_qemu.export.delivery.fates import Fate
from otel_qemu.export.metrics.metric_names import Attributes
from otel_qemu.probe.process_memory import resident_bytes
from otel_qemu.trace.correlate import Stats
from otel_qemu.trace.measurements import Measurements
from otel_qemu.trace.traces import Join

Numbers = dict[tuple[str, Attributes], int]
"""By instrument and attributes; in ns where the unit is s."""


def of_measurements(measured: Measurements) -> Numbers:
    """What the kernel counted, the correlator joined, and is attached."""
    return {
        **_of_kernel(measured.counters),
        **_of_correlator(measured.correlated),
        (semconv.PROBES_ATTACHED, ()): measured.probes,
        (semconv.PROCESSES_TRACED, ()): len(measured.processes),
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
