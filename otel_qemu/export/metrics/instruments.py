# SPDX-License-Identifier: Apache-2.0
"""
Every metric that leaves the process: its kind, its unit, what it says and the attributes that it may have.

Units are UCUM's, as OpenTelemetry writes them.  A metric has no other attributes than those listed here: their values
are few, and never an address, an offset or a process id.
"""

from enum import StrEnum
from typing import NamedTuple

from otel_qemu.export import semconv


class InstrumentKind(StrEnum):
    """What a metric's numbers are."""

    HISTOGRAM = "histogram"
    COUNTER = "counter"
    """A sum that only grows."""
    UP_DOWN_COUNTER = "up_down_counter"
    """A sum that comes and goes, of which that of several disks or hosts makes sense."""
    GAUGE = "gauge"
    """A value of which it does not."""


class Instrument(NamedTuple):
    """One metric."""

    name: str
    kind: InstrumentKind
    unit: str
    description: str
    attributes: tuple[str, ...] = ()


_DISK = (semconv.DISK_ALIAS, semconv.DISK_TARGET)
_SCSI = (*_DISK, semconv.SCSI_OPERATION_NAME, semconv.DISK_IO_DIRECTION, semconv.ERROR_TYPE)
_RBD = (*_DISK, semconv.RBD_POOL, semconv.RBD_OPERATION_NAME, semconv.DISK_IO_DIRECTION, semconv.ERROR_TYPE)

GUEST_INSTRUMENTS = (
    Instrument(semconv.SCSI_REQUEST_DURATION, InstrumentKind.HISTOGRAM, "s",
               "From a SCSI request's submit by the guest to its end", _SCSI),
    Instrument(semconv.BLOCK_WAIT_METRIC, InstrumentKind.HISTOGRAM, "s",
               "Of that, before and between its librbd calls; of requests that made any", _SCSI),
    Instrument(semconv.RBD_OPERATION_DURATION, InstrumentKind.HISTOGRAM, "s",
               "From a librbd call to its completion", _RBD),
    Instrument(semconv.BLOCK_COMPLETION_METRIC, InstrumentKind.HISTOGRAM, "s",
               "Of a SCSI request, after the last of its librbd calls; of requests that made any", _SCSI),
    Instrument(semconv.SCSI_IO, InstrumentKind.COUNTER, "By",
               "What the guest's reads and writes asked for", (*_DISK, semconv.DISK_IO_DIRECTION)),
    Instrument(semconv.RBD_IO, InstrumentKind.COUNTER, "By",
               "What librbd's reads and writes asked for", (*_DISK, semconv.RBD_POOL, semconv.DISK_IO_DIRECTION)),
    Instrument(semconv.SCSI_REQUEST_ACTIVE, InstrumentKind.UP_DOWN_COUNTER, "{request}",
               "SCSI requests in flight", _DISK),
    Instrument(semconv.SCSI_REQUEST_OLDEST_AGE, InstrumentKind.GAUGE, "s",
               "How long the oldest of them has been; 0 while there is none", _DISK),
)  # fmt: skip

OWN_INSTRUMENTS = (
    Instrument(semconv.BPF_EVENTS, InstrumentKind.COUNTER, "{event}",
               "What the probes did, each hit and what stands beside it", (semconv.BPF_EVENT,)),
    Instrument(semconv.BPF_EVENTS_LOST, InstrumentKind.COUNTER, "{event}",
               "What the probes did not see as it was, or could not keep", (semconv.BPF_EVENT,)),
    Instrument(semconv.CORRELATED_CALLS, InstrumentKind.COUNTER, "{call}",
               "Librbd calls in traces, by the rule that joined them or the reason why none did", (semconv.JOIN,)),
    Instrument(semconv.DISAGREEMENTS, InstrumentKind.COUNTER, "{call}",
               "Of these, joined by the pointer walk against the other witnesses"),
    Instrument(semconv.INCOMPLETE_REQUESTS, InstrumentKind.COUNTER, "{request}",
               "SCSI requests in traces without all of their calls"),
    Instrument(semconv.TRACES_SENT, InstrumentKind.COUNTER, "{trace}", "Traces that the endpoint has taken"),
    Instrument(semconv.TRACES_LOST, InstrumentKind.COUNTER, "{trace}",
               "Traces that never will be", (semconv.REASON,)),
    Instrument(semconv.TRACES_SHED, InstrumentKind.COUNTER, "{trace}",
               "Traces worth sending, but above the rate of their guest"),
    Instrument(semconv.SPANS_SENT, InstrumentKind.COUNTER, "{span}", "Their spans"),
    Instrument(semconv.SPANS_LOST, InstrumentKind.COUNTER, "{span}", "Spans of the lost ones", (semconv.REASON,)),
    Instrument(semconv.SPANS_QUEUED, InstrumentKind.UP_DOWN_COUNTER, "{span}", "Spans that wait or are on their way"),
    Instrument(semconv.METRIC_EXPORTS, InstrumentKind.COUNTER, "{request}",
               "Requests with metrics", (semconv.OUTCOME,)),
    Instrument(semconv.SERIES_LOST, InstrumentKind.COUNTER, "{series}",
               "Series of disks and guests that are gone whose last counts could not be kept until they were sent"),
    Instrument(semconv.PROBES_ATTACHED, InstrumentKind.UP_DOWN_COUNTER, "{probe}",
               "Sites in binaries that have a probe"),
    Instrument(semconv.PROCESSES_TRACED, InstrumentKind.UP_DOWN_COUNTER, "{process}", "QEMU processes that are traced"),
    Instrument(semconv.PROCESS_CPU_TIME, InstrumentKind.COUNTER, "s",
               "CPU time of the sidecar; not that of the probes, which is QEMU's", (semconv.CPU_MODE,)),
    Instrument(semconv.PROCESS_MEMORY_USAGE, InstrumentKind.UP_DOWN_COUNTER, "By", "Resident memory of the sidecar"),
)  # fmt: skip

INSTRUMENTS = {instrument.name: instrument for instrument in (*GUEST_INSTRUMENTS, *OWN_INSTRUMENTS)}
"""Every metric by its name: those of guests, then those about ourselves."""
