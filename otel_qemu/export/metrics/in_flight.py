# SPDX-License-Identifier: Apache-2.0
"""SCSI requests in flight, disk by disk: how many, and since when the oldest."""

from collections.abc import Callable, Iterable

from otel_qemu.export import semconv
from otel_qemu.export.metrics.series_names import Attributes, SeriesName, disk_attributes
from otel_qemu.trace.measurements import Snapshot
from otel_qemu.trace.names import Guest

_DISK = (semconv.DISK_ALIAS, semconv.DISK_TARGET)


def in_flight(
    snapshot: Snapshot, living: Iterable[SeriesName], resource_of: Callable[[Guest], bytes]
) -> dict[SeriesName, int]:
    """
    How many requests each disk has in flight, and since when the oldest, in ns; 0 for disks that have none.

    Args:
        snapshot: of now.
        living: series that processes of the snapshot have; they say which disks there are.
        resource_of: whose a guest's series are.
    """
    found = {}
    for name in living:
        if name.instrument == semconv.SCSI_REQUEST_DURATION:
            disk = tuple(each for each in name.attributes if each[0] in _DISK)
            found.update(dict.fromkeys(_gauges(name.resource, disk), 0))
    for pid, device, submit_ns in snapshot.in_flight[["pid", "device", "submit_ns"]].tolist():
        disk = disk_attributes(snapshot.names.devices.get((pid, device)), device)
        active, oldest = _gauges(resource_of(snapshot.names.guest(pid)), disk)
        found[active] = found.get(active, 0) + 1
        found[oldest] = max(found.get(oldest, 0), snapshot.monotonic_ns - submit_ns)
    return found


def _gauges(resource: bytes, disk: Attributes) -> tuple[SeriesName, SeriesName]:
    active = SeriesName(resource, semconv.SCSI_REQUEST_ACTIVE, disk)
    return active, SeriesName(resource, semconv.SCSI_REQUEST_OLDEST_AGE, disk)
