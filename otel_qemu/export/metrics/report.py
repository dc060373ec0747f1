# SPDX-License-Identifier: Apache-2.0
"""What became of exports of metrics: for our own metrics, for the log, and in a sentence at the end."""

import logging
import time

from otel_qemu.export import semconv
from otel_qemu.export.metrics.health import Numbers

log = logging.getLogger(__name__)


class MetricReport:
    """
    Counts, and a warning now and then.

    Args:
        endpoint: as people know it.
        interval_s: the least time between two warnings.
    """

    def __init__(self, endpoint: str, interval_s: float = 60.0) -> None:
        self.endpoint = endpoint
        self.sent_points = 0
        self.sent = 0
        """Requests that the endpoint has taken."""
        self.failed = 0
        """Requests that it has not."""
        self._interval_s = interval_s
        self._warn_at_s = time.monotonic()
        self._unsent = False

    def arrived(self, points: int) -> None:
        """The endpoint has taken a request with this number of data points."""
        self.sent, self.sent_points, self._unsent = self.sent + 1, self.sent_points + points, False

    def fail(self, reason: str) -> None:
        """A request was not taken."""
        self._fail(
            "metrics are not getting through: endpoint %s: %s; they are part of the next export "
            "(OTEL_METRICS_EXPORTER=none turns them off)",
            self.endpoint, reason,
        )  # fmt: skip

    def break_down(self, error: Exception) -> None:
        """An export could not be made."""
        self._fail("metrics could not be made, which is a defect: %s: %s", type(error).__name__, error)

    def close(self, sent_all: bool) -> None:
        """There will be no more."""
        self._unsent = self._unsent or not sent_all

    def numbers(self) -> Numbers:
        """For our own metrics."""
        return {semconv.METRIC_EXPORTS: {"sent": self.sent, "failed": self.failed}}

    def summary(self) -> str:
        """What became of all of them, in a sentence."""
        end = "; the last export did not arrive" if self._unsent else ""
        return f"{self.sent_points} data points sent to {self.endpoint}{end}"

    def _fail(self, text: str, *values: object) -> None:
        self._unsent = True
        if time.monotonic() >= self._warn_at_s:
            self._warn_at_s = time.monotonic() + self._interval_s
            log.warning(text, *values)
        self.failed += 1
