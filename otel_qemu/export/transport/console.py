# SPDX-License-Identifier: Apache-2.0
"""OTLP for a person or a file: one JSON object per request."""

import base64
import json
from typing import Any, TextIO

from google.protobuf.json_format import MessageToJson
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
        self._out.write(otlp_json(ExportTraceServiceRequest.FromString(body)))
        self._out.flush()
        return Answer(Outcome.SENT)

    def close(self) -> None:
        """Leave the stream as it is."""


def otlp_json(request: Message) -> str:
    """
    An ``Export...ServiceRequest`` as a line of OTLP/JSON.

    Ids are hexadecimal and enumerations are numbers there, unlike in Protocol Buffers' JSON (OTLP specification, "JSON
    Protobuf Encoding").
    """
    text = MessageToJson(request, use_integers_for_enums=True)
    return f"{json.dumps(json.loads(text, object_hook=_with_hexadecimal_ids))}\n"


def _with_hexadecimal_ids(part: dict[str, Any]) -> dict[str, Any]:
    """Any object of a request: ids of spans and exemplars are in it, and nothing else has fields of these names."""
    return part | {key: base64.b64decode(part[key]).hex() for key in _IDS if key in part}
