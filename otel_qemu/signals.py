# SPDX-License-Identifier: Apache-2.0
"""
SIGINT and SIGTERM as an event, so that a loop that waits for it ends in order.

A SIGINT that is ignored stays ignored: under nohup, or with `&` in a script, Ctrl-C is meant for others.  SIGTERM
always works.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def ended_by_signals(event: threading.Event) -> Iterator[None]:
    """
    Let both signals set the event while the context lasts; an ignored SIGINT stays ignored.

    In another thread than the main one this does nothing, because Python delivers signals to the main thread only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        numbers.append(signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: event.set()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
