# SPDX-License-Identifier: Apache-2.0
"""Pauses between tries: longer and longer, never the same, and as the endpoint asks."""

from otel_qemu.export.transport.backoff import LONGEST_ASKED_S, Backoff


def test_pauses_double_up_to_the_longest_with_full_jitter() -> None:
    rounds = []
    for _ in range(400):
        backoff = Backoff(1.0, 8.0)
        rounds.append([backoff.next_s() for _ in range(6)])
    for index, most_s in enumerate([1.0, 2.0, 4.0, 8.0, 8.0, 8.0]):
        pauses_s = [each[index] for each in rounds]
        assert 0 <= min(pauses_s) < most_s / 4  # each is wrong once in 10^50 runs
        assert most_s * 3 / 4 < max(pauses_s) <= most_s
    backoff.reset()
    assert backoff.next_s() <= 1.0


def test_what_is_asked_for_is_kept_and_capped() -> None:
    backoff = Backoff(1.0, 8.0)
    assert 50 <= backoff.next_s(50) <= 51
    assert LONGEST_ASKED_S <= backoff.next_s(1e9) <= LONGEST_ASKED_S + 2
