# SPDX-License-Identifier: Apache-2.0
"""Who exports numbers, and the snapshots that they are given when they want one."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from otel_qemu.probe.naming import Naming
from otel_qemu.probe.selection import Selection
from otel_qemu.probe.tracer import Tracer
from otel_qemu.trace.measurements import ProcessCounts, Snapshot
from otel_qemu.trace.names import Names
from otel_qemu.trace.pipeline import Pipeline


class Meter(Protocol):
    """Takes snapshots now and then; no method waits for the network."""

    def is_due(self) -> bool:
        """Whether it wants a snapshot now; asked often, so answered at once."""

    def measure(self, snapshot: Snapshot) -> None:
        """Take a snapshot that it wanted, or the last one."""

    def depart(self, processes: Sequence[ProcessCounts], names: Names) -> None:
        """Take the last counts of guests that have ended, and names as they were then."""


class Meters:
    """
    Gives snapshots to meters.

    Args:
        meters: the receivers.
        selection: of the guests that are measured.
        naming: of their disks.
        pipeline: whose counts are part of each snapshot.
    """

    def __init__(self, meters: Sequence[Meter], selection: Selection, naming: Naming, pipeline: Pipeline) -> None:
        self._meters = meters
        self._selection = selection
        self._naming = naming
        self._pipeline = pipeline

    def due(self, tracer: Tracer) -> None:
        """Give a snapshot to those meters that want one now."""
        if due := [meter for meter in self._meters if meter.is_due()]:
            snapshot = self._snapshot(tracer)
            for meter in due:
                meter.measure(snapshot)

    def last(self, tracer: Tracer) -> None:
        """Give the last snapshot to all of them."""
        if self._meters:
            snapshot = replace(self._snapshot(tracer), last=True)
            for meter in self._meters:
                meter.measure(snapshot)

    def ended(self, counts: Sequence[ProcessCounts]) -> None:
        """Give them the last counts of processes, under names that another guest with their ids may take over now."""
        if self._meters and counts:
            names = self._naming.names.copy()
            for meter in self._meters:
                meter.depart(counts, names)

    def _snapshot(self, tracer: Tracer) -> Snapshot:
        self._selection.describe_all()
        self._naming.learn_guests(self._selection.guests)
        moment = time.time_ns(), time.monotonic_ns()
        processes, in_flight = tracer.counts(), tracer.in_flight()
        for rows in (*(process.series for process in processes), in_flight):
            self._naming.learn_devices(rows)
        return Snapshot(
            *moment,
            self._naming.names.copy(),
            tuple(processes),
            in_flight=in_flight,
            counters=tracer.counters(),
            correlated=replace(self._pipeline.stats),
            probes=tracer.probes,
        )
