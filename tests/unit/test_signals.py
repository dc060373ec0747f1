# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and SIGTERM end a command in order; where SIGINT is ignored, as under nohup, only SIGTERM does."""

import signal
import threading
from collections.abc import Iterator

import pytest

from otel_qemu.signals import ended_by_signals


@pytest.fixture
def ignored() -> Iterator[None]:
    """SIGINT is ignored, as a shell without job control has it for what it starts in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_both_set_the_event(number: signal.Signals) -> None:
    """And afterwards each has the handler that it had."""
    event, before = threading.Event(), signal.getsignal(number)
    with ended_by_signals(event):
        signal.raise_signal(number)
        assert event.is_set()
    assert signal.getsignal(number) is before


def test_an_ignored_sigint_stays_ignored(ignored: None) -> None:
    """SIGTERM ends it all the same."""
    event = threading.Event()
    with ended_by_signals(event):
        signal.raise_signal(signal.SIGINT)
        assert not event.is_set()
        signal.raise_signal(signal.SIGTERM)
        assert event.is_set()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
