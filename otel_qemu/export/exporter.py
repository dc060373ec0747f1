# SPDX-License-Identifier: Apache-2.0
"""Everything that one run exports: its traces and its metrics, tied to each other."""

from typing import Self

from otel_qemu.export.delivery.client import TraceClient
from otel_qemu.export.delivery.fates import Ledger
from otel_qemu.export.delivery.limits import Limits
from otel_qemu.export.metrics import health
from otel_qemu.export.metrics.client import MetricsClient
from otel_qemu.export.sink import ExportSink
from otel_qemu.export.transport.destination import destination
from otel_qemu.settings import Settings
from otel_qemu.trace.sample import Sampler


class Exporter:
    """
    A sink for traces and a meter for metrics, where the ``OTEL_*`` variables say.

    At its close traces stop first, and the last metrics say what became of them.

    Args:
        sink: of traces.
        meter: of metrics.
    """

    def __init__(self, sink: ExportSink, meter: MetricsClient) -> None:
        self.sink = sink
        self.meter = meter

    @classmethod
    def from_environment(cls, settings: Settings) -> Self:
        """
        The exporter that the ``OTEL_*`` variables ask for.

        Raises:
            BadInput: a variable has a value that it must not have; nothing has been started then.
        """
        target, limits = destination(), Limits.from_environment(settings.queue_bytes)
        ledger, sampler = Ledger(), Sampler(settings.one_in, settings.guest_traces_per_s)
        meter = MetricsClient.from_environment(
            settings.bounds_s, lambda: health.of_traces(ledger.stats, sampler.over_rate)
        )
        exemplars = meter.exemplars
        client = TraceClient(target, limits, ledger, exemplars.on_sent if exemplars else None)
        return cls(ExportSink(client, sampler, exemplars, settings.wait_threshold), meter)

    @property
    def bounds_s(self) -> tuple[float, ...]:
        """Upper bounds of the bins that the kernel has to count with, in seconds."""
        return self.meter.settings.bounds_s

    def close(self) -> None:
        """Send what can be sent in the time given, and stop; more calls do nothing."""
        self.sink.close()
        self.meter.close()

    def summary(self) -> str:
        """What became of spans and of data points so far, a line each."""
        return f"{self.sink.summary()}\n{self.meter.report.summary()}"
