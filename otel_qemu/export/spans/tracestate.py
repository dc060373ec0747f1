"""
What the spans of a trace say of how it was sampled, so that who counts kept traces can tell how many there were.

Source: OpenTelemetry specification, "TraceState: Probability Sampling": of the 2**56 equally likely values of the low
56 bits of a trace id, a trace is kept with those that are not less than its rejection threshold.
"""

from typing import Final

from opentelemetry.proto.trace.v1.trace_pb2 import SpanFlags

RANDOM_BITS: Final = 56
UNKNOWN: Final = (1 << 64) - 1
"""The threshold of a trace that was kept with a probability which nobody knows."""

_SAMPLED, _RANDOM = 0x01, 0x02
FLAGS: Final = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK | _SAMPLED | _RANDOM
"""``Span.flags`` of all our spans: kept, of a random trace id (W3C Trace Context level 2), and no parent is remote."""

_ALL = 1 << RANDOM_BITS
_DIGITS = RANDOM_BITS // 4


def trace_state(threshold: int) -> str:
    """``ot=th:ffbe77`` and the like, exact, with trailing zeros left out; empty where the probability is not known."""
    if threshold >= _ALL:
        return ""
    return f"ot=th:{f'{threshold:0{_DIGITS}x}'.rstrip('0') or '0'}"


def ratio(threshold: int) -> float | None:
    """The probability with which it was kept, where that is known and less than certainty."""
    return (_ALL - threshold) / _ALL if 0 < threshold < _ALL else None
