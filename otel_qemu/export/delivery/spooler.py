"""Between the queue and the spool: what the disk's thread does."""

import logging
from collections.abc import Sequence

from otel_qemu.export.delivery.losses import LossReport
from otel_qemu.export.delivery.portions import Bounds
from otel_qemu.export.delivery.queue import TraceQueue
from otel_qemu.export.delivery.spool import Spool
from otel_qemu.export.spans.encoded import EncodedTrace

_PORTION_SPANS, _PORTION_BYTES = 4096, 1 << 18
_DISK_PAUSE_S = 10.0
_logger = logging.getLogger(__name__)


class Spooler:
    """
    Writes traces to disk and reads them, apart from who makes them and who sends them: a disk may hang as well.

    Args:
        queue: they come from.
        spool: they go to.
        losses: told why a disk does not take them.
    """

    def __init__(self, queue: TraceQueue, spool: Spool, losses: LossReport) -> None:
        self._queue = queue
        self._spool = spool
        self._losses = losses
        self._portion = Bounds(_PORTION_SPANS, min(_PORTION_BYTES, spool.file_bytes))

    def run(self) -> None:
        """Keep half of the queue's room free, and traces ready to be sent, until the queue is closed."""
        while (traces := self._queue.shed(self._portion, _DISK_PAUSE_S, self._is_wanted)) is not None:
            if traces and not self._keep(traces):
                self._queue.pause(_DISK_PAUSE_S)
            self._refill()

    def finish(self) -> None:
        """Keep all that the queue still has, and close the spool."""
        while (traces := self._queue.rest(self._portion)) and self._keep(traces):
            pass
        try:
            self._spool.close()
        except OSError as error:
            _logger.warning("the spool could not be closed: %s", error)

    def _is_wanted(self) -> bool:
        return self._spool.needs_refill

    def _refill(self) -> None:
        try:
            if self._is_wanted() and self._spool.refill():
                self._queue.wake()  # the sender may have found nothing
        except Exception:  # a defect, but no reason to keep nothing any more
            _logger.exception("reading the spool has failed")
            self._queue.pause(_DISK_PAUSE_S)

    def _keep(self, traces: Sequence[EncodedTrace]) -> bool:
        try:
            self._spool.append(traces)
        except OSError as error:
            self._losses.note(f"spool: {error}")
            return False
        except Exception:  # a defect; the next traces may do better
            _logger.exception("writing the spool has failed")
            return False
        return True
