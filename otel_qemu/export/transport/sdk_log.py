# SPDX-License-Identifier: Apache-2.0
"""
What OpenTelemetry's own libraries log of an export, kept from the log and given to the one who exports.

They log each failed try, and return no reason; here a failure is one line now and then, with its reason in it.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from otel_qemu.export.text import printable, without_queries


class _Listener(logging.Handler):
    """Keeps the records of threads that listen; those of others go to the root logger, as they would without it."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[int, list[str]] = {}
        """Of each thread that listens."""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record, or pass it on."""
        texts = self.texts.get(threading.get_ident())
        if texts is None:
            logging.getLogger().handle(record)
        else:
            texts.append(printable(without_queries(record.getMessage())))


_library = logging.getLogger("opentelemetry")
_listener = _Listener()
_lock = threading.Lock()


@contextmanager
def logged() -> Iterator[list[str]]:
    """What the libraries log in this thread meanwhile, each record a printable line; none of it reaches the log."""
    texts: list[str] = []
    with _lock:
        _listener.texts[threading.get_ident()] = texts
        _library.addHandler(_listener)
        _library.propagate = False
    try:
        yield texts
    finally:
        with _lock:
            del _listener.texts[threading.get_ident()]
            if not _listener.texts:
                _library.propagate = True
                _library.removeHandler(_listener)
