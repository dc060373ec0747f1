"""Whose our own metrics are; a guest's are under the resource of its traces."""

import os

from opentelemetry.proto.metrics.v1.metrics_pb2 import ResourceMetrics

from otel_qemu.export import semconv
from otel_qemu.export.resources import Resources
from otel_qemu.trace.names import Guest


def own_resource(resources: Resources) -> bytes:
    """The sidecar's: on the guests' host, under its own name."""
    pid = os.getpid()
    message = ResourceMetrics.FromString(resources.of(Guest(pid, semconv.DISTRO)))
    values = {each.key: each.value for each in message.resource.attributes}
    values[semconv.SERVICE_NAME].string_value = semconv.DISTRO
    host = values.get(semconv.HOST_ID) or values[semconv.HOST_NAME]
    values[semconv.SERVICE_INSTANCE_ID].string_value = host.string_value  # the same after a restart
    body: bytes = message.SerializeToString()
    return body
