"""Who exports numbers, and what is known at one moment, put together when they want it."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from otel_qemu.probe.naming import Naming
from otel_qemu.probe.selection import Selection
from otel_qemu.probe.tracer import Tracer
from otel_qemu.trace.measurements import Measurements, ProcessCounts
from otel_qemu.trace.pipeline import Pipeline


class Meter(Protocol):
    """Takes what is known at one moment, now and then."""

    def is_due(self) -> bool:
        """Whether it wants a measurement now; asked often, so answered at once."""

    def measure(self, measurements: Measurements) -> None:
        """One that it wanted, or one of guests that have ended meanwhile; never waits for the network."""


class Meters:
    """
    Hands measurements to meters.

    Args:
        meters: that want them.
        selection: of the guests that are measured.
        naming: of their disks.
        pipeline: whose counts are part of it.
    """

    def __init__(self, meters: Sequence[Meter], selection: Selection, naming: Naming, pipeline: Pipeline) -> None:
        self._meters = meters
        self._selection = selection
        self._naming = naming
        self._pipeline = pipeline

    def due(self, tracer: Tracer) -> None:
        """Measure for those meters that want it now."""
        if due := [meter for meter in self._meters if meter.is_due()]:
            self._hand_out(due, self._measured(tracer))

    def last(self, tracer: Tracer) -> None:
        """Measure for all of them, once more."""
        if self._meters:
            self._hand_out(self._meters, replace(self._measured(tracer), last=True))

    def ended(self, counts: Sequence[ProcessCounts]) -> None:
        """The last counts of processes, under names that another guest with their ids may take over now."""
        if self._meters and counts:
            moment = time.time_ns(), time.monotonic_ns()
            self._hand_out(self._meters, Measurements(*moment, self._naming.names.copy(), ended=tuple(counts)))

    def _measured(self, tracer: Tracer) -> Measurements:
        self._selection.describe_all()
        self._naming.learn_guests(self._selection.guests)
        moment = time.time_ns(), time.monotonic_ns()
        processes, in_flight = tracer.counts(), tracer.in_flight()
        for rows in (*(process.series for process in processes), in_flight):
            self._naming.learn_devices(rows)
        return Measurements(
            *moment,
            self._naming.names.copy(),
            tuple(processes),
            in_flight=in_flight,
            counters=tracer.counters(),
            correlated=replace(self._pipeline.stats),
            probes=tracer.probes,
        )

    def _hand_out(self, meters: Sequence[Meter], measurements: Measurements) -> None:
        for meter in meters:
            meter.measure(measurements)
