# SPDX-License-Identifier: Apache-2.0
"""A short run of the service on a busy guest, with a program that is loaded already."""

from functools import partial
from typing import Any

from otel_qemu.events import Batch
from otel_qemu.policy import EVERYTHING
from otel_qemu.probe.selection import Selection
from otel_qemu.probe.tracer import Tracer
from otel_qemu.service import Intervals, Service
from otel_qemu.trace.names import Names
from otel_qemu.trace.traces import Join, Traces
from tests.kernel.tracing import INSPECTOR, KeptProgram

QUICK = Intervals(drain_s=0.01, refresh_s=0.02)
"""So short that a window of a few hundredths of a second has several turns, and a proof's probe is detached in it."""


class Window(Service):
    """
    The service, and a sink of its own.

    Args:
        selection: of guests.
        route: of attaching; None for the best there is.
    """

    def __init__(self, selection: Selection, route: str | None = None) -> None:
        super().__init__(selection, [self], policy=EVERYTHING, intervals=QUICK, make_tracer=self._made)
        self._route = route
        self.endings: list[int] = []
        self.orphans: list[int] = []

    def _made(self, *arguments: Any) -> Tracer:
        """One whose counters begin at what the last window left."""
        made = partial(Tracer, load_program=KeptProgram.one, inspector=INSPECTOR)(*arguments)
        made.route = self._route or made.route
        self._before = made.counters()
        made.read()
        return made

    def take(self, _batch: Batch, traces: Traces, _names: Names) -> None:
        """What every sink is given."""
        self.endings += traces.requests["ending"].tolist()
        self.orphans += traces.orphans["join"].tolist()

    def counted(self) -> dict[str, int]:
        """What the counters have gone up by in this window."""
        return {name: value - self._before[name] for name, value in self.counters.items()}

    def histogrammed(self, layer: str) -> int:
        """How many the kernel's histograms of a layer have counted."""
        return sum(row.count for row in self.histograms.rows(self.names) if row.layer == layer)

    def assert_is_whole(self, in_flight: int) -> None:
        """
        Nothing looks lost, all that was taken has ended and is counted, and each call has a request or began before us.

        Args:
            in_flight: how many requests the guest has in flight at most.
        """
        counted = self.counted()
        assert (counted["scsi_end_lost"], counted["rbd_end_lost"]) == (0, 0)
        assert counted["scsi_submitted"] == counted["scsi_completed"] == len(self.endings)
        assert counted["rbd_submitted"] == counted["rbd_completed"]
        assert self.still_in_flight == (0, 0)
        layers = [self.histogrammed(layer) for layer in ("scsi", "rbd")]
        assert layers == [counted["scsi_completed"], counted["rbd_completed"]]
        assert set(self.orphans) <= {Join.STARTED_BEFORE, Join.INTERNAL}
        assert len(self.orphans) <= in_flight
