# SPDX-License-Identifier: Apache-2.0
"""Snapshots for a client of metrics, and waits for what it does with them."""

import time
from collections.abc import Callable
from typing import Any

from otel_qemu.export.metrics.client import MetricsClient
from otel_qemu.trace.measurements import Snapshot
from tests.support.builders import names
from tests.support.metering import Kernel

WAIT_S = 120.0
SCSI = "qemu.scsi.request.duration"


def snapshot(kernel: Kernel, **others: Any) -> Snapshot:
    """Return a snapshot of now, with the counts of one process."""
    return Snapshot(time.time_ns(), time.monotonic_ns(), names(), (kernel.counts(),), **others)


def wait_until(condition: Callable[[], Any]) -> None:
    """Wait until a condition holds, or fail."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def wait_for_failures(client: MetricsClient, count: int) -> None:
    """Wait until this number of exports has failed."""
    wait_until(lambda: client.report.failed == count)
