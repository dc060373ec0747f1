"""Metrics on standard output, for people who try things: OTEL_METRICS_EXPORTER=console."""

import sys

from google.protobuf.json_format import MessageToJson
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from otel_qemu.export.transport import Answer, Outcome


class ConsoleTransport:
    """Writes each request as OTLP's JSON, one object a line."""

    def send(self, body: bytes) -> Answer:
        """Write a serialised request."""
        sys.stdout.write(MessageToJson(ExportMetricsServiceRequest.FromString(body), indent=None) + "\n")
        sys.stdout.flush()
        return Answer(Outcome.SENT)

    def close(self) -> None:
        """Nothing to let go of."""
