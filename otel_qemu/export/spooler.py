"""From the queue to the spool: what the spool's thread does."""

import logging
from collections.abc import Sequence

from otel_qemu.export.encoded import EncodedTrace
from otel_qemu.export.losses import LossReport
from otel_qemu.export.portions import Bounds
from otel_qemu.export.queue import TraceQueue
from otel_qemu.export.spool import Spool

_PORTION = Bounds(4096, 1 << 18)
_DISK_PAUSE_S = 10.0
_logger = logging.getLogger(__name__)


class Spooler:
    """
    Writes traces to disk, apart from whoever makes them and whoever sends them: a disk may be slow as well.

    Args:
        queue: they come from.
        spool: they go to.
        losses: told why a disk does not take them.
    """

    def __init__(self, queue: TraceQueue, spool: Spool, losses: LossReport) -> None:
        self._queue = queue
        self._spool = spool
        self._losses = losses

    def run(self) -> None:
        """Keep half of the queue's room free, until it is closed."""
        while (traces := self._queue.shed(_PORTION, _DISK_PAUSE_S)) is not None:
            if traces and not self._keep(traces):
                self._queue.pause(_DISK_PAUSE_S)

    def finish(self) -> None:
        """Keep all that the queue still has, and close the spool."""
        while (traces := self._queue.rest(_PORTION)) and self._keep(traces):
            pass
        try:
            self._spool.close()
        except OSError as error:
            _logger.warning("the spool could not be closed: %s", error)

    def _keep(self, traces: Sequence[EncodedTrace]) -> bool:
        try:
            self._spool.append(traces)
        except OSError as error:
            self._losses.note(f"spool: {error}")
            return False
        return True
