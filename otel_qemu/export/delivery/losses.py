"""
Say that traces are not getting through: a line at most once a minute, and one when they do again.
"""

import logging
import time

from otel_qemu.export.delivery.stats import LOSSES, Stats

_logger = logging.getLogger(__name__)


class LossReport:
    """
    Counts and reasons become one warning a minute.

    Args:
        endpoint: to name in the warning.
        interval_s: the least time between two warnings.
    """

    def __init__(self, endpoint: str, interval_s: float = 60.0) -> None:
        self.interval_s = interval_s
        self._endpoint = endpoint
        self._reason = ""
        self._failing = False
        self._told_failing = False
        self._reported_spans = 0
        self._due_s = time.monotonic()

    def note(self, reason: str) -> None:
        """Note why traces were lost."""
        self._reason = reason

    def failing(self, reason: str) -> None:
        """Note that a request was not taken, and why."""
        self._reason = reason
        self._failing = True

    def working(self, reason: str = "") -> None:
        """Note that a request was taken, and why not all of it; say so if the last warning said otherwise."""
        self._failing = False
        self._reason = reason or self._reason
        if self._told_failing:
            self._told_failing = False
            _logger.warning("traces are sent again: endpoint %s", self._endpoint)

    def report(self, stats: Stats) -> None:
        """Warn, if spans were lost since the last warning or nothing is sent, and that one is old enough."""
        lost = stats.lost_spans > self._reported_spans
        if not (lost or (self._failing and not self._told_failing)) or time.monotonic() < self._due_s:
            return
        self._told_failing = self._failing
        self._reported_spans = stats.lost_spans
        self._due_s = time.monotonic() + self.interval_s
        _logger.warning(
            "traces are %s: endpoint %s: %d spans lost so far%s, %d wait%s",
            "being lost" if lost else "not getting through",
            self._endpoint,
            stats.lost_spans,
            _counts(stats),
            stats.queued_spans + stats.spooled_spans,
            f"; last reason: {self._reason}" if self._reason else "",
        )


def _counts(stats: Stats) -> str:
    """How many by each reason, in brackets."""
    counts = {fate.removeprefix("dropped_").replace("_", " "): stats.of(fate)[0] for fate in LOSSES}
    parts = [f"{name} {count}" for name, count in counts.items() if count]
    return f" ({', '.join(parts)})" if parts else ""
