# SPDX-License-Identifier: Apache-2.0
"""Sampling: whole traces, with a probability that is known, so that estimates made of them are true."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_qemu.events import Ending, Kept
from otel_qemu.trace.sample import ALL, BURST_S, UNKNOWN, Sampler, fair, threshold_of
from otel_qemu.trace.traces import REQUEST, Traces
from tests.support.builders import DEVICE, PID, Call, Request, traces

quick = settings(deadline=None, max_examples=60, derandomize=True, database=None)
SIGMAS = 5
KEPT = st.sampled_from((*Kept, 0))


def random() -> np.random.Generator:
    """The same numbers in every run."""
    return np.random.default_rng(1)


def many(count: int, kept: Kept = Kept.SAMPLED, span_ns: int = 10**9, **fields: Any) -> Traces:
    """Requests without calls that end one after the other within a time."""
    rows = np.zeros(count, dtype=REQUEST)
    rows["pid"], rows["device"], rows["ending"], rows["kept"] = PID, DEVICE, Ending.COMPLETED, kept
    rows["complete_ns"] = 10**12 + np.arange(count) * span_ns // max(count, 1)
    for name, value in fields.items():
        rows[name] = value
    return Traces(rows, traces().calls, 0)


def weights(table: Any) -> Any:
    """How many traces each stands for, float64, shape (n,)."""
    return ALL / (ALL - table["threshold"].astype("f8"))


class TestThreshold:
    """What the kernel's dice come to."""

    @pytest.mark.parametrize(
        ("one_in", "digits"), [(2, "8"), (4, "c"), (16, "f"), (1000, "ffbe76c9000000"), (10, "e66666")]
    )
    def test_digits(self, one_in: int, digits: str) -> None:
        """As the specification's table has them, to the digits of 32 bits of dice."""
        assert f"{threshold_of(one_in):014x}".startswith(digits)

    @given(st.integers(1, 2**32))
    def test_is_the_dices_probability(self, one_in: int) -> None:
        """2^32 / N of 2^32 numbers pass them, rounded down (is_sampled, bpf/ring.bpf.c)."""
        assert (ALL - threshold_of(one_in)) * 2**32 == (2**32 // one_in) * ALL

    def test_ends(self) -> None:
        """All, and none."""
        assert (threshold_of(1), threshold_of(0)) == (0, ALL)


class TestReasons:
    """Each reason for keeping has its probability."""

    @pytest.mark.parametrize("kept", [Kept.ERROR, Kept.SLOW])
    @pytest.mark.parametrize("one_in", [0, 1, 1000])
    def test_errors_and_slow_ones_are_certain(self, kept: Kept, one_in: int) -> None:
        """All of them, each for itself alone, whatever their randomness."""
        found = Sampler(one_in, random=random()).sample(many(1000, kept)).requests
        assert set(found["threshold"].tolist()) == {0}
        assert len(found) == 1000
        assert found["randomness"].min() < ALL // 100
        assert found["randomness"].max() > ALL // 100 * 99

    def test_the_kernels_dice_are_a_randomness_above_the_threshold(self) -> None:
        """All of them pass; uniform between the threshold and the end."""
        found = Sampler(10, random=random()).sample(many(10_000)).requests
        least = threshold_of(10)
        assert len(found) == 10_000
        assert set(found["threshold"].tolist()) == {least}
        assert found["randomness"].min() >= least
        share = (found["randomness"] - np.uint64(least)) / (ALL - least)
        assert abs(np.histogram(share, 10, (0, 1))[0] - 1000).max() < SIGMAS * 30

    def test_where_the_kernel_keeps_all_the_dice_are_thrown_here(self) -> None:
        """One in ten, those with the randomness for it."""
        found = Sampler(10, random=random()).sample(many(100_000, Kept.JOINED_LATER)).requests
        assert abs(len(found) - 10_000) < SIGMAS * 95
        assert set(found["threshold"].tolist()) == {threshold_of(10)}
        assert found["randomness"].min() >= threshold_of(10)

    @pytest.mark.parametrize(("one_in", "left"), [(1, 50), (0, 0)])
    def test_all_or_none(self, one_in: int, left: int) -> None:
        """Without thinning all pass; where none but errors and slow ones are wanted, none does."""
        assert len(Sampler(one_in, random=random()).sample(many(50, Kept.JOINED_LATER)).requests) == left

    @pytest.mark.parametrize("one", [{"ending": Ending.HUNG, "kept": Kept.SLOW}, {"kept": 0}])
    def test_an_unknown_probability_is_not_told(self, one: dict[str, int]) -> None:
        """A request that hangs, and a record that does not say why it is there: sent, and for itself alone."""
        some = many(20)
        for name, value in one.items():
            some.requests[name] = value
        found = Sampler(1000, random=random()).sample(some).requests
        assert found["threshold"].tolist() == [UNKNOWN] * 20


class TestWhole:
    """Traces stay whole."""

    @quick
    @given(st.lists(st.tuples(KEPT, st.integers(0, 3)), max_size=30), st.lists(KEPT, max_size=5), st.booleans())
    def test_calls_go_with_their_requests(self, made: list[tuple[int, int]], alone: list[int], capped: bool) -> None:
        """What is kept is what was there, request by request and call by call; the rest is counted."""
        requests = [
            Request(submit_ns=10**9 + at * 99, calls=tuple(Call(submit_ns=10**9 + at * 99 + n) for n in range(calls)),
                    fields={"kept": kept, "tag": at})
            for at, (kept, calls) in enumerate(made)
        ]  # fmt: skip
        orphans = [Call(submit_ns=at, fields={"kept": kept, "offset": at}) for at, kept in enumerate(alone)]
        given_in = traces(*requests, orphans=orphans)
        sampler = Sampler(2, 1.0 if capped else None, random())
        found = sampler.sample(traces(*requests, orphans=orphans))
        for index, request in enumerate(found.requests):
            before = given_in.calls_of(int(request["tag"]))
            own = found.calls_of(index)
            assert own["submit_ns"].tolist() == before["submit_ns"].tolist()
            assert (own["parent"] == index).all()
        assert len(found.calls) == found.requests["calls"].sum() + len(found.orphans)
        for table in (found.requests, found.orphans):
            assert ((table["randomness"] >= table["threshold"]) | (table["threshold"] == UNKNOWN)).all()
        left = len(found.requests) + len(found.orphans)
        assert left + sampler.over_rate <= len(made) + len(alone)
        assert capped or not sampler.over_rate

    def test_a_call_without_request_is_a_trace(self) -> None:
        """With a probability of its own."""
        orphans = [Call(fields={"kept": kept}) for kept in (Kept.SAMPLED, Kept.SLOW)]
        found = Sampler(10, random=random()).sample(traces(orphans=orphans)).orphans
        assert found["threshold"].tolist() == [threshold_of(10), 0]


class TestCap:
    """A guest sends no more than it may."""

    def test_the_rate_is_kept(self) -> None:
        """Twenty seconds at 10,000 a second, capped at 100: the burst, and 100 a second."""
        sampler, kept = Sampler(1, 100, random()), 0
        for second in range(20):
            some = many(10_000)
            some.requests["complete_ns"] += second * 10**9
            kept += len(sampler.sample(some).requests)
        assert abs(kept - 100 * (BURST_S + 19)) < SIGMAS * np.sqrt(2400)
        assert sampler.over_rate == 200_000 - kept

    def test_who_stays_below_is_left_alone(self) -> None:
        """Nothing is shed below the cap, and another guest's traces do not count."""
        sampler = Sampler(1, 100, random())
        some = many(600)
        some.requests["pid"][::2] += 1
        assert Counter(sampler.sample(some).requests["pid"].tolist()) == {PID: 300, PID + 1: 300}
        assert sampler.over_rate == 0

    def test_a_full_disk_takes_nothing_from_an_empty_one(self) -> None:
        """50 traces of one disk pass whole beside 100,000 of another."""
        some = many(100_050)
        some.requests["device"][::2001] = DEVICE + 16
        found = Sampler(1, 100, random()).sample(some).requests
        assert Counter(found["device"].tolist())[DEVICE + 16] == 50
        assert abs(len(found) - 100 * BURST_S) < SIGMAS * np.sqrt(500)

    def test_errors_are_not_crowded_out(self) -> None:
        """Within a disk, a few errors all pass beside many that are not."""
        some = many(100_000)
        some.requests["kept"][::1000] = Kept.ERROR
        found = Sampler(1, 100, random()).sample(some).requests
        assert (found["kept"] == Kept.ERROR).sum() == 100
        assert set(found["threshold"][found["kept"] == Kept.ERROR].tolist()) == {0}

    def test_nothing_has_no_probability_at_all(self) -> None:
        """However long too much comes, a trace may always be among those that are kept."""
        sampler = Sampler(1, 1, random())
        kept = [len(sampler.sample(many(1000, span_ns=1000)).requests) for _ in range(600)]
        assert 0 < sum(kept[300:]) < 50

    @given(st.lists(st.integers(0, 1000), max_size=8), st.integers(0, 3000))
    def test_fair_is_max_min(self, wanted: list[int], room: int) -> None:
        """All of it is given out if it is wanted; who has less than wanted has no less than anybody."""
        parts = np.array(fair(wanted, room))
        assert parts.sum() == pytest.approx(min(sum(wanted), room))
        assert (parts <= np.array(wanted) + 1e-9).all()
        for part, want in zip(parts, wanted, strict=True):
            assert part >= want - 1e-9 or part >= parts.max() - 1e-9


class TestEstimates:
    """Inverse-probability estimates agree with what was there."""

    BINS_NS = np.geomspace(1e5, 1e9, 9)

    def population(self, seed: int, size: int = 60_000) -> Any:
        """What a kernel that keeps errors, slow ones and one in ten sees, second by second."""
        chance = np.random.default_rng(seed)
        rows = many(size, Kept.SAMPLED, 20 * 10**9).requests
        rows["device"] = DEVICE + 16 * chance.choice(3, size, p=(0.9, 0.09, 0.01))
        rows["pid"] = PID + chance.choice(2, size, p=(0.7, 0.3))
        duration = chance.lognormal(np.log(3e6), 1.5, size).astype("u8")
        rows["submit_ns"] = rows["complete_ns"] - duration
        rows["kept"] = np.where(
            duration >= 10**8, Kept.SLOW, np.where(chance.random(size) < 0.002, Kept.ERROR, Kept.SAMPLED)
        )
        let_through = (rows["kept"] != Kept.SAMPLED) | (chance.random(size) < 0.1)
        rows["kept"][rows["pid"] == PID + 1] = Kept.JOINED_LATER  # of it the kernel keeps everything
        return rows, rows[let_through | (rows["pid"] == PID + 1)]

    def sampled(self, rows: Any, seed: int, cap: float | None) -> Any:
        sampler = Sampler(10, cap, np.random.default_rng(seed))
        parts = [sampler.sample(Traces(part.copy(), traces().calls, 0)) for part in np.array_split(rows, 40)]
        return np.concatenate([part.requests for part in parts])

    @staticmethod
    def durations(rows: Any) -> Any:
        return (rows["complete_ns"] - rows["submit_ns"]).astype("f8")

    @pytest.mark.parametrize("cap", [None, 60.0, 20.0])
    def test_counts_and_bins(self, cap: float | None) -> None:
        """Of each guest and disk the count, and of all each bin: within five standard errors of the exact one."""
        everything, recorded = self.population(1)
        found = self.sampled(recorded, 2, cap)
        groups = [(pid, device) for pid in (PID, PID + 1) for device in (DEVICE, DEVICE + 16, DEVICE + 32)]
        for pid, device in groups:
            exact, own = (rows[(rows["pid"] == pid) & (rows["device"] == device)] for rows in (everything, found))
            self.check(len(exact), weights(own))
        edges = zip((0, *self.BINS_NS), (*self.BINS_NS, np.inf), strict=True)
        for low, high in edges:
            exact, own = (
                rows[(self.durations(rows) >= low) & (self.durations(rows) < high)] for rows in (everything, found)
            )
            self.check(len(exact), weights(own))

    @staticmethod
    def check(exact: int, stand_for: Any) -> None:
        """The variance of such an estimate is estimated by the sum of w (w - 1); of none kept, it is one weight's."""
        variance = max(float((stand_for * (stand_for - 1)).sum()), float((stand_for.max(initial=10)) ** 2))
        assert abs(float(stand_for.sum()) - exact) < SIGMAS * np.sqrt(variance)

    def test_without_bias(self) -> None:
        """Over many draws, the mean of the estimates comes as close as their number allows; thinner, not skewed."""
        everything, recorded = self.population(3, 6000)
        estimates = [float(weights(self.sampled(recorded, seed, 10.0)).sum()) for seed in range(60)]
        given_out = [float(weights(self.sampled(recorded, seed, None)).sum()) for seed in range(60)]
        # The kernel's dice are thrown once here: what they gave is what the mean is of.
        expected = np.mean(given_out)
        assert abs(np.mean(estimates) - expected) < SIGMAS * np.std(estimates) / np.sqrt(60)
        assert abs(expected - len(everything)) < SIGMAS * np.sqrt(9 * len(everything))
