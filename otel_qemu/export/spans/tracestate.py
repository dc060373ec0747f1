# SPDX-License-Identifier: Apache-2.0
"""
How a trace was sampled, as its spans say it: whoever counts the traces that were kept can estimate how many there were.

Source: OpenTelemetry specification, "TraceState: Probability Sampling": of the 2**56 equally likely values of the low
56 bits of a trace id, a trace is kept with those that are not less than its rejection threshold.
"""

from typing import Final

from opentelemetry.proto.trace.v1.trace_pb2 import SpanFlags

from otel_qemu.trace.sample import ALL, RANDOM_BITS

_SAMPLED, _RANDOM = 0x01, 0x02
FLAGS: Final = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK | _SAMPLED | _RANDOM
"""``Span.flags`` of all our spans: sampled, of a random trace id (W3C Trace Context level 2), no remote parent."""

_DIGITS = RANDOM_BITS // 4


def trace_state(threshold: int) -> str:
    """``ot=th:ffbe77``, exact, without trailing zeros; empty for a threshold that is not known."""
    if threshold >= ALL:
        return ""
    return f"ot=th:{f'{threshold:0{_DIGITS}x}'.rstrip('0') or '0'}"
