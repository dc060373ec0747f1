"""
Say that traces are being lost: one line, at most once a minute, instead of all that the SDK's exporters would say.
"""

import logging
import time

from otel_qemu.export.queue import Stats
from otel_qemu.export.text import printable

_EXPORTERS = logging.getLogger("opentelemetry.exporter")
_logger = logging.getLogger(__name__)


class LossReport:
    """
    Counts become one warning a minute; what the exporters log becomes its reason.

    Args:
        endpoint: to name in the warning.
        interval_s: the least time between two warnings.
    """

    def __init__(self, endpoint: str, interval_s: float = 60.0) -> None:
        self.interval_s = interval_s
        self._endpoint = endpoint
        self._reported_spans = 0
        self._due_s = time.monotonic()
        self._ear = _Ear()

    def start(self) -> None:
        """Take over what the exporters log."""
        self._ear.listen()

    def stop(self) -> None:
        """Give it back."""
        self._ear.leave()

    def report(self, stats: Stats) -> None:
        """Warn, if spans were lost since the last warning and that one is old enough."""
        if stats.lost_spans == self._reported_spans or time.monotonic() < self._due_s:
            return
        self._reported_spans = stats.lost_spans
        self._due_s = time.monotonic() + self.interval_s
        _logger.warning(
            "traces are being lost: endpoint %s: %d spans lost so far (%s)",
            self._endpoint,
            stats.lost_spans,
            _reason(stats, self._ear.last),
        )


def _reason(stats: Stats, last: str) -> str:
    counts = {
        "queue full": stats.dropped_queue_full_spans,
        "not sent": stats.dropped_failed_spans,
        "at close": stats.dropped_at_close_spans,
    }
    parts = [f"{name} {count}" for name, count in counts.items() if count]
    return "; ".join([", ".join(parts), *([last] if last else [])])


class _Ear(logging.Handler):
    """Hears the exporters' records instead of everyone else, and remembers the last that matters."""

    def __init__(self) -> None:
        super().__init__()
        self.last = ""

    def listen(self) -> None:
        _EXPORTERS.propagate = False
        _EXPORTERS.addHandler(self)

    def leave(self) -> None:
        _EXPORTERS.removeHandler(self)
        if not any(isinstance(handler, _Ear) for handler in _EXPORTERS.handlers):
            _EXPORTERS.propagate = True

    def emit(self, record: logging.LogRecord) -> None:
        try:
            # The text may hold what the endpoint answered.
            self.last = printable(record.getMessage())
        except Exception:
            self.handleError(record)
        _logger.debug("%s", self.last)
