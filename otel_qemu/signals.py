"""
SIGINT and SIGTERM as an event: whoever waits for it comes to an orderly end.

Where SIGINT is ignored it stays so: nohup, and `&` in a script, mean that Ctrl-C is for others.  SIGTERM always works.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def ended_by_signals(event: threading.Event) -> Iterator[None]:
    """While inside, both set the event, but for a SIGINT that is ignored; in the main thread only, where Python can."""
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
