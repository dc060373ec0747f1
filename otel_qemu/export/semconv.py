# SPDX-License-Identifier: Apache-2.0
"""
Every name that leaves the process: spans, attributes, metrics, enum texts and defaults, in one place.

Roots of our own are ``scsi.``, ``ceph.rbd.``, ``qemu.`` and ``otel_qemu.``; all others are OpenTelemetry's.  Names hold
no unit: durations are seconds (s), sizes bytes (By).
"""

from typing import Final

from otel_qemu.events import RbdOperation

# Resource: the guest, and the hypervisor it runs on.  host.* is never the guest.
SERVICE_NAME: Final = "service.name"
SERVICE_INSTANCE_ID: Final = "service.instance.id"
DOMAIN_UUID: Final = "qemu.domain.uuid"
DOMAIN_NAME: Final = "qemu.domain.name"
PROCESS_PID: Final = "process.pid"
PROCESS_EXECUTABLE_NAME: Final = "process.executable.name"
HOST_NAME: Final = "host.name"
HOST_ID: Final = "host.id"
SDK_NAME: Final = "telemetry.sdk.name"
SDK_LANGUAGE: Final = "telemetry.sdk.language"
SDK_VERSION: Final = "telemetry.sdk.version"
DISTRO_NAME: Final = "telemetry.distro.name"
DISTRO_VERSION: Final = "telemetry.distro.version"

DEFAULT_SERVICE_NAME: Final = "qemu"
DISTRO: Final = "otel-qemu"
SCOPE_NAME: Final = "otel_qemu"
"""Instrumentation scope of every span and metric."""

# Span names.  A SCSI request's is its operation, `scsi.OPERATIONS`.
BLOCK_WAIT: Final = "block.wait"
RBD_SPAN_PREFIX: Final = "rbd."

# SCSI request.
SCSI_OPERATION_NAME: Final = "scsi.operation.name"
SCSI_OPCODE: Final = "scsi.opcode"
SCSI_LUN: Final = "scsi.lun"
SCSI_TAG: Final = "scsi.tag"
SCSI_LBA: Final = "scsi.lba"  # in blocks
SCSI_BLOCK_SIZE: Final = "scsi.block.size"  # By
SCSI_TRANSFER_SIZE: Final = "scsi.transfer.size"  # By
SCSI_STATUS_CODE: Final = "scsi.status_code"
SCSI_STATUS: Final = "scsi.status"
SCSI_HOST_STATUS_CODE: Final = "scsi.host_status_code"
SCSI_SENSE_KEY: Final = "scsi.sense.key"
SCSI_SENSE_ASC: Final = "scsi.sense.asc"
SCSI_SENSE_ASCQ: Final = "scsi.sense.ascq"
SCSI_RETRIES: Final = "scsi.retries"
DISK_IO_DIRECTION: Final = "disk.io.direction"

# Where its time went: the three add up to the span's duration.
BLOCK_WAIT_DURATION: Final = "qemu.block.wait.duration"  # s; before and between its RBD calls
RBD_DURATION: Final = "ceph.rbd.duration"  # s; union of its RBD calls
COMPLETION_DURATION: Final = "qemu.block.completion.duration"  # s; after the last of them

# The disk, on spans of both layers.
DISK_ALIAS: Final = "qemu.disk.alias"
DISK_TARGET: Final = "qemu.disk.target"

# RBD call.
RBD_OPERATION_NAME: Final = "ceph.rbd.operation.name"
RBD_POOL: Final = "ceph.rbd.pool"
RBD_IMAGE: Final = "ceph.rbd.image"
RBD_OFFSET: Final = "ceph.rbd.offset"  # By
RBD_LENGTH: Final = "ceph.rbd.length"  # By
RBD_RETURN_VALUE: Final = "ceph.rbd.return_value"  # bytes or 0, or a negative errno
SERVICE_PEER_NAME: Final = "service.peer.name"
PEER_SERVICE: Final = "peer.service"  # the older name of the same, which service graphs still look for
CEPH: Final = "ceph"

# What we think of it.
JOIN: Final = "otel_qemu.join"  # traces.Join.label
DISAGREEMENT: Final = "otel_qemu.disagreement"  # true: the pointer walk and the other witnesses disagree
INCOMPLETE: Final = "otel_qemu.incomplete"  # true: the end, or the records of some calls, were not seen
SAMPLING_RATIO: Final = "otel_qemu.sampling.ratio"  # 0 to 1, on roots that stand for more than themselves

ERROR_TYPE: Final = "error.type"
OTHER: Final = "_OTHER"
"""OpenTelemetry's text for an enum value that has no name."""
CANCELLED: Final = "cancelled"
END_LOST: Final = "end_lost"
TIMEOUT: Final = "timeout"

RBD_OPERATIONS: Final[dict[int, str]] = {
    RbdOperation.READ: "aio_read",
    RbdOperation.WRITE: "aio_write",
    RbdOperation.DISCARD: "aio_discard",
    RbdOperation.WRITE_ZEROES: "aio_write_zeroes",
    RbdOperation.FLUSH: "aio_flush",
}
"""``ceph.rbd.operation.name`` of each `events.RbdOperation`; the span's name is the same behind ``rbd.``."""

RBD_DIRECTIONS: Final[dict[int, str]] = {RbdOperation.READ: "read", RbdOperation.WRITE: "write"}
"""``disk.io.direction`` of calls that have one."""

HOST_STATUSES: Final[dict[int, str]] = {
    0x01: "SCSI_HOST_NO_LUN",
    0x02: "SCSI_HOST_BUSY",
    0x03: "SCSI_HOST_TIME_OUT",
    0x04: "SCSI_HOST_BAD_RESPONSE",
    0x05: "SCSI_HOST_ABORTED",
    0x07: "SCSI_HOST_ERROR",
    0x08: "SCSI_HOST_RESET",
    0x0E: "SCSI_HOST_TRANSPORT_DISRUPTED",
    0x10: "SCSI_HOST_TARGET_FAILURE",
    0x11: "SCSI_HOST_RESERVATION_ERROR",
    0x12: "SCSI_HOST_ALLOCATION_FAILURE",
    0x13: "SCSI_HOST_MEDIUM_ERROR",
}
"""``error.type`` of a failed request: enum SCSIHostStatus of QEMU's include/scsi/utils.h (6.0 and later)."""

# Metrics: `instruments.INSTRUMENTS` says of each its kind, its unit and its attributes.
SCSI_REQUEST_DURATION: Final = "qemu.scsi.request.duration"
RBD_OPERATION_DURATION: Final = "ceph.rbd.client.operation.duration"
BLOCK_WAIT_METRIC: Final = BLOCK_WAIT_DURATION
BLOCK_COMPLETION_METRIC: Final = COMPLETION_DURATION
SCSI_IO: Final = "qemu.scsi.io"
RBD_IO: Final = "ceph.rbd.client.io"
SCSI_REQUEST_ACTIVE: Final = "qemu.scsi.request.active"
SCSI_REQUEST_OLDEST_AGE: Final = "qemu.scsi.request.oldest.age"

# Metrics about ourselves.
BPF_EVENTS: Final = "otel_qemu.bpf.events"
BPF_EVENTS_LOST: Final = "otel_qemu.bpf.events.lost"
CORRELATED_CALLS: Final = "otel_qemu.correlation.calls"
DISAGREEMENTS: Final = "otel_qemu.correlation.disagreements"
INCOMPLETE_REQUESTS: Final = "otel_qemu.correlation.incomplete"
TRACES_SENT: Final = "otel_qemu.traces.sent"
TRACES_LOST: Final = "otel_qemu.traces.lost"
TRACES_SHED: Final = "otel_qemu.traces.shed"
SPANS_SENT: Final = "otel_qemu.spans.sent"
SPANS_LOST: Final = "otel_qemu.spans.lost"
SPANS_QUEUED: Final = "otel_qemu.spans.queued"
METRIC_EXPORTS: Final = "otel_qemu.metrics.exports"
SERIES_LOST: Final = "otel_qemu.metrics.series.lost"
PROBES_ATTACHED: Final = "otel_qemu.probes.attached"
PROCESSES_TRACED: Final = "otel_qemu.processes.traced"
PROCESS_CPU_TIME: Final = "process.cpu.time"
PROCESS_MEMORY_USAGE: Final = "process.memory.usage"

BPF_EVENT: Final = "otel_qemu.bpf.event"  # a kernel counter's name, `events.COUNTERS`
REASON: Final = "otel_qemu.reason"
OUTCOME: Final = "otel_qemu.outcome"  # sent, failed
CPU_MODE: Final = "cpu.mode"  # user, system
