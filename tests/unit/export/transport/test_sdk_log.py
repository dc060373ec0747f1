# SPDX-License-Identifier: Apache-2.0
"""What the SDK logs in a thread that exports is its reason, and no line of the log."""

import logging
import threading

import pytest

from otel_qemu.export.transport.sdk_log import logged
from tests.children import join

library = logging.getLogger("opentelemetry.exporter.some")


def test_what_is_logged_is_given_and_goes_no_further(caplog: pytest.LogCaptureFixture) -> None:
    """As one printable line a record; before and after, the log has it."""
    library.warning("before")
    with logged() as texts:
        library.warning("not %s", "now\nplease")
    library.warning("after")
    assert texts == ["not now\\nplease"]
    assert caplog.messages == ["before", "after"]


def test_queries_of_urls_are_not_given() -> None:
    """A token may stand there; libraries write the whole URL into what they log."""
    with logged() as texts:
        library.warning("retries exceeded with url: /v1/metrics?key=secret (who is there ?)")
    assert texts == ["retries exceeded with url: /v1/metrics?*** (who is there ?)"]


def test_other_threads_log_as_usual(caplog: pytest.LogCaptureFixture) -> None:
    """Once, whoever listens meanwhile; and two that listen have each their own."""
    own: list[list[str]] = []

    def listen() -> None:
        with logged() as texts:
            library.warning("mine")
        own.append(texts)

    with logged() as texts:
        for act in (lambda: library.warning("usual"), listen):
            thread = threading.Thread(target=act)
            thread.start()
            join(thread)
        library.warning("ours")
    assert (texts, own) == (["ours"], [["mine"]])
    assert caplog.messages == ["usual"]
