# SPDX-License-Identifier: Apache-2.0
"""
Which whole traces are sent, and with what probability: OpenTelemetry's consistent probability sampling.

In: `Traces`.  Out: those that are kept, with ``randomness`` and ``threshold`` filled: a trace is kept if and only if
its randomness is not below its threshold, and 2^56 / (2^56 - threshold) is how many traces it stands for
(OpenTelemetry specification, "TraceState: Probability Sampling").

Errors and slow ones have threshold 0.  Of the others one in N is kept: by the kernel's dice, or, in a process of which
the kernel keeps everything since calls are joined here, by the randomness.  The kernel's dice are as good as a
randomness that was not below the threshold: it is drawn from there.

A guest with too many traces has its thresholds raised, those of its fullest disks first.  By how much follows from
counts alone, before any randomness is looked at: so the probability is known, and estimates stay true.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from otel_qemu.events import Ending, Kept
from otel_qemu.trace.arrays.groups import grouped
from otel_qemu.trace.traces import Traces

RANDOM_BITS = 56
"""Of a trace id, its lowest (OpenTelemetry specification, as above)."""

ALL = 1 << RANDOM_BITS
"""Randomness and thresholds are below it."""

UNKNOWN = (1 << 64) - 1
"""Threshold of a trace whose probability is not known: a request that hangs is reported by a timer, not by chance."""

BURST_S = 5.0
"""A guest may send the traces of this many seconds at once."""

_LEAST_SHARE = 0.01
"""Of a burst, when nothing is left: a probability of 0 would hide traces from every estimate."""


class Sampler:
    """The sampling stage; feed it traces in the order of the correlator."""

    def __init__(
        self, one_in: int = 1, guest_traces_per_s: float | None = None, random: np.random.Generator | None = None
    ) -> None:
        """
        Begin.

        Args:
            one_in: the same as in the kernel; 0: none but errors and slow ones.
            guest_traces_per_s: traces a second of a guest, in the records' time; None: all.
            random: where randomness comes from; None: the operating system's.
        """
        self.over_rate = 0
        """Traces that were worth keeping, and above the rate of their guest."""
        self._threshold = threshold_of(one_in)
        self._cap = _Cap(guest_traces_per_s) if guest_traces_per_s else None
        self._random = random or np.random.default_rng()

    def sample(self, traces: Traces) -> Traces:
        """
        The traces to send: requests with all of their calls, and calls without a request.

        Of ``traces.by_request`` and ``by_call``, ``randomness`` and ``threshold`` may be filled in place.
        """
        groups = _Groups.of(traces)
        if not len(groups.codes):
            return traces
        base = np.where(groups.why <= _Why.UNKNOWN, 0, self._threshold).astype("u8")
        thresholds = base if self._cap is None else self._cap.raised(groups, base)
        randomness = self._randomness((groups.why == _Why.DICED)[groups.codes])
        kept = randomness >= thresholds[groups.codes]
        if self._cap:
            self.over_rate += int(np.count_nonzero(randomness >= base[groups.codes]) - np.count_nonzero(kept))
        thresholds[groups.why == _Why.UNKNOWN] = UNKNOWN
        return traces.sampled(kept, randomness, thresholds[groups.codes])

    def _randomness(self, diced: NDArray[np.bool_]) -> NDArray[np.uint64]:
        """Uniform below 2^56, uint64, shape (n,); above the threshold where the kernel's dice have let it pass."""
        least = self._threshold if 0 < self._threshold < ALL else 0
        drawn = self._random.integers(0, ALL, len(diced), dtype="u8")
        if least:
            drawn[diced] = self._random.integers(least, ALL, int(np.count_nonzero(diced)), dtype="u8")
        return drawn


def threshold_of(one_in: int) -> int:
    """
    The rejection threshold that the kernel's dice come to; 2^56 where they let none pass.

    ``is_sampled`` (bpf/ring.bpf.c) compares 32 random bits with 2^32 / N, rounded down.
    """
    return 0 if one_in == 1 else ALL - ((1 << 32) // one_in << 24 if one_in else 0)


class _Why(IntEnum):
    """How the probability of a trace is known, if it is."""

    CERTAIN = 0
    """It is worth keeping whatever its randomness."""
    UNKNOWN = 1
    """The same, but nobody can say how many others it stands for."""
    DICED = 2
    """The kernel's dice have let it pass."""
    UNDECIDED = 3
    """Its randomness decides."""


_WHY = np.full(256, _Why.UNKNOWN, dtype="u1")
_WHY[[Kept.ERROR, Kept.SLOW, Kept.SAMPLED, Kept.JOINED_LATER]] = (0, 0, _Why.DICED, _Why.UNDECIDED)


@dataclass(frozen=True)
class _Groups:
    """The traces in groups, each of which has one probability."""

    codes: NDArray[np.int64]
    """Of each trace, requests first, then calls without one: its group."""
    pid: list[int]
    disk: list[int]
    """SCSIDevice *, or a call's image."""
    why: NDArray[np.uint8]
    newest_ns: int

    @classmethod
    def of(cls, traces: Traces) -> "_Groups":
        requests, orphans = traces.by_request, traces.by_orphan
        why = _WHY[requests["kept"]]
        why[requests["ending"] == Ending.HUNG] = _Why.UNKNOWN
        ours, others = traces.disks.refined(why), grouped(orphans["pid"], orphans["image"], orphans["kept"])
        ends = (int(table["complete_ns"].max(initial=0)) for table in (requests, orphans))
        return cls(
            np.concatenate((ours.codes, others.codes + len(ours))),
            requests["pid"][ours.firsts].tolist() + orphans["pid"][others.firsts].tolist(),
            requests["device"][ours.firsts].tolist() + orphans["image"][others.firsts].tolist(),
            np.concatenate((why[ours.firsts], _WHY[orphans["kept"][others.firsts]])),
            max(ends),
        )


class _Cap:
    """Raises thresholds of guests that have more traces than they may; a leaky bucket each."""

    def __init__(self, guest_traces_per_s: float) -> None:
        self._guest_traces_per_s = guest_traces_per_s
        self._burst = guest_traces_per_s * BURST_S
        self._levels: dict[int, float] = {}
        """How full the bucket of each guest is, in traces; an empty one has no entry."""
        self._newest_ns = 0

    def raised(self, groups: _Groups, base: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """
        The thresholds that keep every guest below its cap, uint64, shape (groups,).

        Args:
            groups: of the traces.
            base: thresholds of the groups so far.
        """
        self._leak(groups.newest_ns)
        chance = np.where(groups.why == _Why.UNDECIDED, (ALL - base) / ALL, 1)
        expected = (np.bincount(groups.codes, minlength=len(base)) * chance).tolist()
        own: dict[int, list[int]] = {}
        for row, pid in enumerate(groups.pid):
            own.setdefault(pid, []).append(row)
        share = np.ones(len(base))
        for pid, rows in own.items():
            share[rows] = self._shares(pid, [expected[row] for row in rows], [groups.disk[row] for row in rows])
        passing = np.maximum(ALL - base.astype("i8"), 0)
        fewer = np.maximum(np.floor(passing * share), np.minimum(passing, 1)).astype("i8")
        return np.where(share < 1, ALL - fewer, base.astype("i8")).astype("u8")

    def _leak(self, newest_ns: int) -> None:
        passed_s = max(newest_ns - self._newest_ns, 0) / 1e9
        self._newest_ns = max(newest_ns, self._newest_ns)
        levels = {pid: level - passed_s * self._guest_traces_per_s for pid, level in self._levels.items()}
        self._levels = {pid: level for pid, level in levels.items() if level > 0}

    def _shares(self, pid: int, expected: list[float], disks: list[int]) -> list[float]:
        """
        The share of each of a guest's groups that may pass.

        Disks have equal parts, and within a disk so have its groups: errors, slow requests and the rest.  Room that a
        disk or a group does not need goes to the others.
        """
        level, wanted = self._levels.get(pid, 0.0), sum(expected)
        left = max(self._burst - level, self._burst * _LEAST_SHARE)
        self._levels[pid] = level + min(left, wanted)
        if wanted <= left:
            return [1.0] * len(expected)
        by_disk: dict[int, list[int]] = {}
        for row, disk in enumerate(disks):
            by_disk.setdefault(disk, []).append(row)
        allotted = fair([sum(expected[row] for row in rows) for rows in by_disk.values()], left)
        share = [1.0] * len(expected)
        for rows, room in zip(by_disk.values(), allotted, strict=True):
            for row, part in zip(rows, fair([expected[row] for row in rows], room), strict=True):
                share[row] = part / expected[row] if expected[row] else 1.0
        return share


def fair(wanted: Sequence[float], room: float) -> list[float]:
    """Max-min fair parts of `room`: nobody has more than is wanted, nor more than another who wants more."""
    parts = [0.0] * len(wanted)
    for taken, (most, index) in enumerate(sorted((most, index) for index, most in enumerate(wanted))):
        parts[index] = min(most, room / (len(wanted) - taken))
        room -= parts[index]
    return parts
