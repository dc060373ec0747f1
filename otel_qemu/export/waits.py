"""Where a request waited in QEMU's block layer: the gaps before and between its calls that are worth a span."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

Row = Mapping[str, int]
"""One row of a table of `traces`, by column name."""


@dataclass(frozen=True)
class WaitThreshold:
    """
    From when on a wait is worth seeing; either is enough.

    Attributes:
        min_ns: a wait this long.
        min_share: a wait that is this share of its request's duration, 0 to 1.
    """

    min_ns: int = 1_000_000
    min_share: float = 0.1

    def waits(self, request: Row, calls: Sequence[Row]) -> list[tuple[int, int]]:
        """
        The waits worth seeing, as (begin, end) in the records' time.

        A request without calls is all wait, most of them commands that QEMU answers itself: there only `min_ns` counts.
        Where records of calls were lost, only the wait before the first call is known.
        """
        if not calls:
            begin_ns = request["submit_ns"]
            return [(begin_ns, begin_ns + request["wait_ns"])] if request["wait_ns"] >= max(self.min_ns, 1) else []
        gaps = list(_gaps(request, calls))
        known = gaps[:1] if request["incomplete"] else gaps
        least_ns = min(self.min_ns, self.min_share * (request["complete_ns"] - request["submit_ns"]))
        return [(begin_ns, end_ns) for begin_ns, end_ns in known if end_ns - begin_ns >= max(least_ns, 1)]


def _gaps(request: Row, calls: Sequence[Row]) -> Iterator[tuple[int, int]]:
    """The time before the first call, and the times between calls in which none ran; some may be empty."""
    last_ns = request["complete_ns"]
    reached_ns = request["submit_ns"]
    for call in sorted(calls, key=lambda call: call["submit_ns"]):
        yield reached_ns, min(call["submit_ns"], last_ns)
        reached_ns = max(reached_ns, call["complete_ns"] or last_ns)
