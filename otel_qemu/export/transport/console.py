# SPDX-License-Identifier: Apache-2.0
"""OTLP for a person or a file: one JSON object per request."""

import base64
import json
from typing import Any, TextIO

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_qemu.export.transport.answer import Answer, Outcome

_IDS = ("traceId", "spanId", "parentSpanId")


class ConsoleTransport:
    """
    Writes requests instead of sending them, one line each, as OTLP/JSON.

    Args:
        out: receives the lines.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def send(self, body: bytes) -> Answer:
        """Write a serialised request."""
        self._out.write(f"{json.dumps(otlp_json(ExportTraceServiceRequest.FromString(body)))}\n")
        self._out.flush()
        return Answer(Outcome.SENT)

    def close(self) -> None:
        """Leave the stream as it is."""


def otlp_json(request: Message) -> dict[str, Any]:
    """
    An ``Export...ServiceRequest`` as OTLP/JSON.

    Ids are hexadecimal and enumerations are numbers there, unlike in Protocol Buffers' JSON (OTLP specification, "JSON
    Protobuf Encoding").
    """
    decoded: dict[str, Any] = MessageToDict(request, use_integers_for_enums=True)
    _write_ids_in_hexadecimal(decoded)
    return decoded


def _write_ids_in_hexadecimal(decoded: Any) -> None:
    """Rewrite the ids of spans and exemplars, wherever they are; nothing else has fields of these names."""
    if isinstance(decoded, dict):
        decoded.update({key: base64.b64decode(decoded[key]).hex() for key in _IDS if key in decoded})
    if isinstance(decoded, dict | list):
        for part in decoded.values() if isinstance(decoded, dict) else decoded:
            _write_ids_in_hexadecimal(part)
