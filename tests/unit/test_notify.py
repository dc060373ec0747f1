# SPDX-License-Identifier: Apache-2.0
"""Reports reach a service manager in its protocol, over a real datagram socket; without a manager nothing happens."""

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_qemu.notify import Notifier

TIMEOUT_S = 60


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A socket of either kind, and what NOTIFY_SOCKET says of it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@otel-qemu-{tmp_path.name}-{time.time_ns()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(f"\0{name[1:]}" if name.startswith("@") else name)
        channel.settimeout(TIMEOUT_S)
        yield channel, name


def test_each_state_is_one_datagram(manager: tuple[socket.socket, str]) -> None:
    """As sd_notify(3) has it; a status of several lines becomes one line, and is sent when it has changed."""
    channel, name = manager
    notifier = Notifier({"NOTIFY_SOCKET": name})

    notifier.ready()
    notifier.status("3 guests\nREADY=0")
    notifier.status("3 guests\nREADY=0")
    notifier.alive()
    notifier.status("4 guests, web-ä\udcff")
    notifier.stopping()

    expected = [
        b"READY=1",
        b"STATUS=3 guests READY=0",
        b"WATCHDOG=1",
        "STATUS=4 guests, web-ä?".encode(),
        b"STOPPING=1",
    ]
    assert [channel.recv(4096) for _ in expected] == expected
    channel.setblocking(False)
    with pytest.raises(BlockingIOError):
        channel.recv(4096)


def test_without_a_manager_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a person starts it."""

    def refuse(*_: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    for environment in ({}, {"NOTIFY_SOCKET": ""}):
        notifier = Notifier(environment)
        notifier.ready()
        notifier.alive()


def test_a_manager_that_is_gone_or_does_not_listen_ends_nothing(tmp_path: Path) -> None:
    """No error, and only the short wait for a busy manager, for any number of reports."""
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).ready()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "deaf")})
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as full:
            full.setblocking(False)
            full.connect(str(tmp_path / "deaf"))
            with contextlib.suppress(BlockingIOError):
                while full.send(b"x"):
                    pass
        notifier.alive()  # would wait for ever if it had no timeout
        assert deaf.recv(4096) == b"x"
