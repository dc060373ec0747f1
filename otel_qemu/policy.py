# SPDX-License-Identifier: Apache-2.0
"""The operator's decisions: which traces are kept, and which waits are shown.  Every request is counted in any case."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from otel_qemu.trace.scsi import CODES, operation_code

NEVER_NS = int(np.iinfo("u8").max)
"""A threshold that no duration reaches."""


@dataclass(frozen=True)
class KeepPolicy:
    """
    The rules for which traces get a record.  Errors always do, and a trace is kept or dropped as a whole.

    Attributes:
        one_in: keep one in this many of the traces that are neither an error nor slow; 1 keeps all, 0 keeps none.
        slow_s: keep a request or call that takes this long or longer; None: no trace is kept for being slow.
        slow_by_operation_s: thresholds of single operations (`scsi.OPERATIONS`), which override `slow_s`.
    """

    one_in: int = 1
    slow_s: float | None = None
    slow_by_operation_s: tuple[tuple[str, float], ...] = ()

    @cached_property
    def slow_ns(self) -> NDArray[np.uint64]:
        """The threshold of each opcode in ns, uint64, shape (256,)."""
        thresholds = np.full(256, self.slow_call_ns, dtype="u8")
        for operation, slow_s in self.slow_by_operation_s:
            thresholds[operation_code(operation) == CODES] = round(slow_s * 1e9)
        return thresholds

    @property
    def slow_call_ns(self) -> int:
        """The threshold of a call without request in ns."""
        return NEVER_NS if self.slow_s is None else round(self.slow_s * 1e9)


EVERYTHING = KeepPolicy()
COUNTS_ONLY = KeepPolicy(one_in=0)


@dataclass(frozen=True)
class WaitThreshold:
    """
    When a wait in QEMU's block layer has a span of its own.  Either condition is enough.

    Attributes:
        min_ns: the wait lasts at least this long.
        min_share: the wait takes at least this share of its request's duration, 0 to 1.
    """

    min_ns: int = 1_000_000
    min_share: float = 0.1
