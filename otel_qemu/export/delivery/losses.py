# SPDX-License-Identifier: Apache-2.0
"""Say that traces do not get through: one line a minute at most, and one when they do again."""

import logging
import time

from otel_qemu.export.delivery.fates import LOSSES, Fate, Ledger, Stats
from otel_qemu.export.transport.answer import Answer, Outcome

log = logging.getLogger(__name__)


class LossReport:
    """
    Makes one warning a minute of counts and reasons.

    Args:
        endpoint: to name in the warning.
        ledger: of what was lost.
        interval_s: the least time between two warnings.
    """

    def __init__(self, endpoint: str, ledger: Ledger, interval_s: float = 60.0) -> None:
        self.interval_s = interval_s
        self._endpoint = endpoint
        self._ledger = ledger
        self._reason = ""
        self._failing = False
        self._warned_failing = False
        self._reported_spans = 0
        self._due_s = time.monotonic()

    def note(self, answer: Answer) -> None:
        """Note what became of a request; if the last warning said that none gets through, say when one does again."""
        self._failing = answer.outcome is not Outcome.SENT
        if self._failing:
            self._reason = answer.reason
        elif answer.rejected:
            self._reason = f"rejected: {answer.reason}"
        if self._warned_failing and not self._failing:
            self._warned_failing = False
            log.warning("traces are sent again: endpoint %s", self._endpoint)

    def report(self) -> None:
        """Warn, if spans were lost since the last warning or nothing is sent, and that one is old enough."""
        stats = self._ledger.stats
        lost_spans = stats.lost.spans
        lost = lost_spans > self._reported_spans
        if not (lost or (self._failing and not self._warned_failing)) or time.monotonic() < self._due_s:
            return
        self._warned_failing = self._failing
        self._reported_spans = lost_spans
        self._due_s = time.monotonic() + self.interval_s
        log.warning(
            "traces are %s: endpoint %s: %d spans lost so far%s, %d wait%s",
            "being lost" if lost else "not getting through",
            self._endpoint,
            lost_spans,
            _counts(stats),
            stats[Fate.WAITING].spans,
            f"; last reason: {self._reason}" if self._reason else "",
        )


def _counts(stats: Stats) -> str:
    """The number of spans by each reason, in brackets."""
    parts = [f"{fate.replace('_', ' ')} {stats[fate].spans}" for fate in LOSSES if stats[fate].spans]
    return f" ({', '.join(parts)})" if parts else ""
