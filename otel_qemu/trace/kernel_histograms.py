# SPDX-License-Identifier: Apache-2.0
"""
The kernel's exact histograms as numpy sees them: ``struct series`` and ``struct latency`` of ``bpf/latency.bpf.c``.
"""

import numpy as np
from numpy.typing import NDArray

from otel_qemu.events import Layer
from otel_qemu.trace import scsi
from otel_qemu.trace.histograms import LAYERS, Histograms, Series

BINS = 32
MOST_BOUNDS = BINS - 1

SERIES = np.dtype(
    [
        ("device", "<u8"),  # SCSIDevice *; 0: calls without request
        ("pid", "<u4"),
        ("layer", "u1"),  # events.Layer
        ("operation", "u1"),  # opcode, or events.RbdOperation
        ("failed", "u1"),
        ("unused", "u1"),
    ]
)
"""The key of one entry of the kernel's map."""

_DISTRIBUTION = np.dtype([("sum_ns", "<u8"), ("counts", "<u8", BINS)])

LATENCY = np.dtype(
    [("bytes", "<u8"), ("duration", _DISTRIBUTION), ("wait", _DISTRIBUTION), ("completion", _DISTRIBUTION)]
)
"""The value: bytes and three histograms; ``wait`` and ``completion`` only of requests that made calls."""

_PARTS = {Layer.SCSI: (("scsi", "duration"), ("wait", "wait")), Layer.RBD: (("rbd", "duration"),)}


def histograms_of(series: NDArray[np.void], latencies: NDArray[np.void], bounds_s: tuple[float, ...]) -> Histograms:
    """
    The kernel's histograms, added up over opcodes of one operation and over failed and good ones.

    Args:
        series: dtype `SERIES`, shape (n,).
        latencies: dtype `LATENCY`, shape (n,).
        bounds_s: the bounds that the kernel was set up with.
    """
    histograms = Histograms(bounds_s)
    for one, latency in zip(series, latencies, strict=True):
        operation = int(one["operation"])
        code = int(scsi.CODES[operation]) if one["layer"] == Layer.SCSI else operation
        for layer, part in _PARTS[Layer(one["layer"])]:
            counts = latency[part]["counts"][: len(bounds_s) + 1].astype("i8")
            if counts.any():
                key = Series(int(one["pid"]), int(one["device"]), code, LAYERS.index(layer))
                histograms.add_counted(key, counts, int(latency[part]["sum_ns"]))
    return histograms
