# SPDX-License-Identifier: Apache-2.0
"""
What meters are given: a snapshot of exact counts, requests in flight and our own counters.

Nothing in it changes any more, so another thread may take its time over it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from otel_qemu.events import NO_RECORDS, Records
from otel_qemu.trace.correlate import Stats
from otel_qemu.trace.kernel_histograms import LATENCY, SERIES
from otel_qemu.trace.names import Names


@dataclass(frozen=True)
class ProcessCounts:
    """
    All that the kernel has counted of one QEMU process since it has been traced; none of it ever decreases.

    Attributes:
        identity: process id and start time in ticks: a process id may be used again.
        series: dtype `kernel_histograms.SERIES`, shape (n,).
        latencies: dtype `kernel_histograms.LATENCY`, shape (n,).
    """

    identity: tuple[int, int]
    series: NDArray[np.void] = field(default_factory=lambda: np.zeros(0, SERIES))
    latencies: NDArray[np.void] = field(default_factory=lambda: np.zeros(0, LATENCY))


@dataclass(frozen=True)
class Snapshot:
    """
    Everything that is known at one moment.

    Attributes:
        time_unix_ns: just before the kernel's tables were read.
        monotonic_ns: the same moment on the records' clock.
        names: as they were then.
        processes: those that are traced.
        in_flight: SCSI requests, dtype `RECORD`.
        counters: the kernel's, by name.
        correlated: the correlator's counts so far.
        probes: how many are attached.
        last: no other snapshot will follow.
    """

    time_unix_ns: int
    monotonic_ns: int
    names: Names
    processes: tuple[ProcessCounts, ...] = ()
    in_flight: Records = field(default_factory=lambda: NO_RECORDS)
    counters: Mapping[str, int] = field(default_factory=dict)
    correlated: Stats = field(default_factory=Stats)
    probes: int = 0
    last: bool = False
