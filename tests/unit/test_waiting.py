"""`run --wait`: a service that comes before its first guest is ready, alive, and traces when there is one."""

from typing import Any
from unittest.mock import patch

import pytest

from otel_qemu.errors import NothingToTrace
from otel_qemu.notify import Notifier
from otel_qemu.probe.selection import Selection
from otel_qemu.service import Intervals, Service

QUICK = Intervals(refresh_s=0.01)


class Later(Selection):
    """Guests that come after some looks."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def processes(self) -> dict[Any, Any]:
        self.looks -= 1
        return {(1, 1): object()} if self.looks < 0 else {}


class Told(Notifier):
    """Remembers what it would have sent."""

    def __init__(self) -> None:
        super().__init__({"NOTIFY_SOCKET": "/nonexistent"})
        self.states: list[str] = []

    def _send(self, state: str) -> None:
        self.states.append(state)


def test_it_waits_and_is_alive_meanwhile() -> None:
    """Ready at once, for nothing keeps it from tracing; alive at every look."""
    told = Told()
    service = Service(Later(3), [], intervals=QUICK, notifier=told)
    with patch.object(Service, "_trace") as traced:
        service.run(wait=True)
    assert told.states[:3] == ["READY=1", "STATUS=waiting for a guest", "WATCHDOG=1"]
    assert told.states.count("WATCHDOG=1") == 3
    traced.assert_called_once()


def test_it_can_be_stopped_while_it_waits() -> None:
    """Then it has traced nothing, which is no error."""
    service = Service(Later(1_000_000), [], intervals=QUICK, notifier=Told())
    service.stop()
    with patch.object(Service, "_trace") as traced:
        service.run(wait=True)
    traced.assert_not_called()


def test_without_it_there_must_be_one() -> None:
    """As a person at a terminal wants it."""
    with patch.object(Service, "_trace") as traced, pytest.raises(NothingToTrace):
        Service(Later(1), []).run()
    traced.assert_not_called()
