# SPDX-License-Identifier: Apache-2.0
"""
What the standard ``OTEL_METRIC*`` variables ask for.

Source: OpenTelemetry specification, configuration/sdk-environment-variables.md, "Periodic exporting MetricReader",
"Exemplar", and protocol/exporter.md with metrics/sdk_exporters/otlp.md for temporality and aggregation.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from otel_qemu.export.metrics.exponential_buckets import BOUNDS_S
from otel_qemu.export.metrics.instruments import INSTRUMENTS, InstrumentKind
from otel_qemu.export.transport import environment
from otel_qemu.trace.histograms import DEFAULT_BOUNDS_S

_OTLP = "OTEL_EXPORTER_OTLP_METRICS_"
_HISTOGRAMS = ("explicit_bucket_histogram", "base2_exponential_bucket_histogram")
_FILTERS = ("trace_based", "always_on", "always_off")


class Temporality(StrEnum):
    """
    What a number counts: all since the series began, or what came since the last export.

    With ``lowmemory``, histograms are as with ``delta`` and all else as with ``cumulative``: counters that are read
    somewhere, as ours are in the kernel, are cumulative then.
    """

    CUMULATIVE = "cumulative"
    DELTA = "delta"
    LOWMEMORY = "lowmemory"


_DELTA: dict[Temporality, frozenset[InstrumentKind]] = {
    Temporality.CUMULATIVE: frozenset(),
    Temporality.DELTA: frozenset({InstrumentKind.HISTOGRAM, InstrumentKind.COUNTER}),
    Temporality.LOWMEMORY: frozenset({InstrumentKind.HISTOGRAM}),
}
"""Kinds of which points hold only what is new."""


@dataclass(frozen=True)
class MetricSettings:
    """
    How metrics are made and when they are sent.

    Attributes:
        interval_s: between two exports.
        timeout_s: for one export with all its retries.
        temporality: of histograms and counters.
        exponential: whether histograms are exponential; else they have explicit bounds.
        exemplars: whether there are any.
        explicit_bounds_s: of histograms that are not exponential.
    """

    interval_s: float = 60.0
    timeout_s: float = 30.0
    temporality: Temporality = Temporality.CUMULATIVE
    exponential: bool = False
    exemplars: bool = True
    explicit_bounds_s: tuple[float, ...] = DEFAULT_BOUNDS_S

    @property
    def bounds_s(self) -> tuple[float, ...]:
        """What the kernel has to count with."""
        return BOUNDS_S if self.exponential else self.explicit_bounds_s

    @property
    def delta(self) -> frozenset[str]:
        """Metrics of which points hold only what is new."""
        return frozenset(name for name, each in INSTRUMENTS.items() if each.kind in _DELTA[self.temporality])

    @classmethod
    def from_environment(cls, explicit_bounds_s: tuple[float, ...] = DEFAULT_BOUNDS_S) -> Self:
        """
        The settings that the environment asks for.

        ``always_on`` exemplars are as ``trace_based`` ones: an exemplar of a trace that nobody has leads nowhere.

        Args:
            explicit_bounds_s: of histograms, unless the environment wants exponential ones.

        Raises:
            BadInput: a variable has a value that it must not have; it says which, and what is allowed.
        """
        return cls(
            environment.number(60_000, 1, "OTEL_METRIC_EXPORT_INTERVAL", int) / 1000,
            environment.number(30_000, 1, "OTEL_METRIC_EXPORT_TIMEOUT", int) / 1000,
            Temporality(environment.choice("cumulative", tuple(Temporality), f"{_OTLP}TEMPORALITY_PREFERENCE")),
            environment.choice(_HISTOGRAMS[0], _HISTOGRAMS, f"{_OTLP}DEFAULT_HISTOGRAM_AGGREGATION") == _HISTOGRAMS[1],
            environment.choice(_FILTERS[0], _FILTERS, "OTEL_METRICS_EXEMPLAR_FILTER") != "always_off",
            explicit_bounds_s,
        )
