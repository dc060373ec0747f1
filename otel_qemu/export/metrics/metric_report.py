"""What became of exports of metrics: for our own metrics, for the log, and in a sentence at the end."""

import logging
import time

from otel_qemu.export import semconv
from otel_qemu.export.metrics.own_metrics import Numbers
from otel_qemu.export.transport.answer import Answer, Outcome

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
        self.rejected_points = 0
        self.sent = 0
        """Requests that the endpoint has taken."""
        self.failed = 0
        """Requests that it has not, each try counted."""
        self._interval_s = interval_s
        self._warn_at_s = time.monotonic()
        self._unsent = False

    def settle(self, answer: Answer, points: int) -> None:
        """A request has its final answer."""
        if answer.outcome is Outcome.SENT:
            self.sent, self._unsent = self.sent + 1, False
            self.sent_points += points - min(points, answer.rejected)
            self.rejected_points += answer.rejected
        else:
            self.failed, self._unsent = self.failed + 1, True
        if answer.rejected:
            self._warn("%s did not want %d data points: %s", self.endpoint, answer.rejected, answer.reason)
        elif self._unsent:
            self._warn(
                "metrics do not arrive: endpoint %s: %s; they are part of the next export "
                "(OTEL_METRICS_EXPORTER=none turns them off)",
                self.endpoint, answer.reason,
            )  # fmt: skip

    def retry(self) -> None:
        """A request is to be sent once more."""
        self.failed += 1

    def postpone(self) -> None:
        """An export is not made, for the endpoint has asked to be left alone."""
        self._unsent = True

    def break_down(self, error: Exception) -> None:
        """An export could not be made."""
        self.failed, self._unsent = self.failed + 1, True
        self._warn("metrics could not be made, which is a defect: %s: %s", type(error).__name__, error)

    def close(self, sent_all: bool) -> None:
        """There will be no more."""
        self._unsent = self._unsent or not sent_all

    def numbers(self) -> Numbers:
        """For our own metrics."""
        return {
            (semconv.METRIC_EXPORTS, ((semconv.OUTCOME, "sent"),)): self.sent,
            (semconv.METRIC_EXPORTS, ((semconv.OUTCOME, "failed"),)): self.failed,
            (semconv.DATA_POINTS_REJECTED, ()): self.rejected_points,
        }

    def summary(self) -> str:
        """What became of all of them, in a sentence."""
        end = "; the last export did not arrive" if self._unsent else ""
        rejected = f", {self.rejected_points} rejected" if self.rejected_points else ""
        return f"{self.sent_points} data points sent to {self.endpoint}{rejected}{end}"

    def _warn(self, text: str, *values: object) -> None:
        if time.monotonic() >= self._warn_at_s:
            self._warn_at_s = time.monotonic() + self._interval_s
            log.warning(text, *values)
