"""OTLP for a person, or for a file: a JSON object a request."""

import base64
import json
from typing import Any, TextIO

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_qemu.export.transport import Answer, Outcome

_IDS = ("traceId", "spanId", "parentSpanId")


class ConsoleTransport:
    """
    Writes requests instead of sending them, a line each, as OTLP/JSON.

    Args:
        out: where to.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def send(self, body: bytes) -> Answer:
        """Write a serialised request."""
        self._out.write(f"{json.dumps(otlp_json(body))}\n")
        self._out.flush()
        return Answer(Outcome.SENT)

    def close(self) -> None:
        """Leave the stream as it is."""


def otlp_json(body: bytes) -> dict[str, Any]:
    """
    A serialised ``ExportTraceServiceRequest`` as OTLP/JSON has it.

    Ids are hexadecimal and enumerations are numbers there, unlike in Protocol Buffers' JSON (OTLP specification, "JSON
    Protobuf Encoding").
    """
    message = ExportTraceServiceRequest.FromString(body)
    decoded: dict[str, Any] = MessageToDict(message, use_integers_for_enums=True)
    for of_resource in decoded.get("resourceSpans", ()):
        for of_scope in of_resource.get("scopeSpans", ()):
            for span in of_scope.get("spans", ()):
                for item in (span, *span.get("links", ())):
                    item.update({key: base64.b64decode(item[key]).hex() for key in _IDS if key in item})
    return decoded
