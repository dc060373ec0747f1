"""Which traces are worth a record; every request and call is counted in the histograms in any case."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from otel_qemu.trace.scsi import CODES, OPERATIONS

NEVER_NS = int(np.iinfo("u8").max)


@dataclass(frozen=True)
class Keeping:
    """
    Errors are always kept; what else, the fields say.  Whole traces are kept or not, never halves.

    Attributes:
        one_in: of those that are neither an error nor slow, one in so many, by chance; 1: all; 0: none.
        slow_s: a request or call that takes so long is kept; None: slowness does not matter.
        slow_by_operation_s: the same for some operations (`scsi.OPERATIONS`), before `slow_s`.
    """

    one_in: int = 1
    slow_s: float | None = None
    slow_by_operation_s: tuple[tuple[str, float], ...] = ()

    @cached_property
    def slow_ns(self) -> NDArray[np.uint64]:
        """The threshold of each opcode in ns, uint64, shape (256,)."""
        thresholds = np.full(256, self.slow_call_ns, dtype="u8")
        by_operation = dict(self.slow_by_operation_s)
        for opcode, code in enumerate(CODES):
            if OPERATIONS[code] in by_operation:
                thresholds[opcode] = round(by_operation[OPERATIONS[code]] * 1e9)
        return thresholds

    @property
    def slow_call_ns(self) -> int:
        """The threshold of a call without request in ns."""
        return NEVER_NS if self.slow_s is None else round(self.slow_s * 1e9)


EVERYTHING = Keeping()
COUNTS_ONLY = Keeping(one_in=0)
