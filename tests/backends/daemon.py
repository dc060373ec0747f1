# SPDX-License-Identifier: Apache-2.0
"""
One backend process on loopback: its start, its readiness, its end, and the end of its log.

A child of ours, and never more: whatever goes wrong while it starts, none is left behind.
"""

import contextlib
import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self, TypeVar

from tests import children

from .query import is_up, wait_for

START_TRIES = 5


class BackendFailed(Exception):
    """
    A backend did not start; the text ends with the tail of its log.
    """


class PortTaken(BackendFailed):
    """
    Another process has one of its ports.
    """


class Daemon(ABC):
    """
    A context manager around one process, which ends with it.

    Attributes:
        name: what it is called in an error.
        log: the file that holds what it prints.
        process: None while it does not run.
    """

    start_timeout_s: ClassVar[float] = 120.0
    stop_timeout_s: ClassVar[float] = 20.0

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        self._log_start_bytes = 0

    @property
    @abstractmethod
    def command(self) -> Sequence[str]:
        """
        The command line.
        """

    @property
    @abstractmethod
    def ready_url(self) -> str:
        """
        Where it answers once it is ready.
        """

    @property
    def variables(self) -> Mapping[str, str]:
        """
        What its environment has beside ours.
        """
        return {}

    def launch(self) -> Self:
        """
        Start it on its ports, the first time or again after `stop`, and wait until it is ready.

        Raises:
            PortTaken: another process has one of its ports.
            BackendFailed: it ended by itself, or was not ready in time.
        """
        assert self.process is None, "it runs already"
        self._spawn()
        try:
            wait_for(self._is_ready, self.start_timeout_s, f"{self.name} to be ready")
        except TimeoutError as timeout:
            self.stop()
            raise self._failure(str(timeout)) from None
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """
        End it, if it runs: politely, then by force.
        """
        process, self.process = self.process, None
        if process is not None:
            children.end(process, self.stop_timeout_s)

    def log_tail(self) -> str:
        """
        Return the last lines that it logged since it was last started.
        """
        return children.log_tail(self.log, from_byte=self._log_start_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _spawn(self) -> None:
        # A process group of its own: Ctrl-C is for us, and we end it. No OTEL*: those are for whom we test.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("OTEL")}
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._log_start_bytes = log.tell()
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**inherited, **self.variables}, start_new_session=True,
            )  # fmt: skip

    def _is_ready(self) -> bool:
        assert self.process is not None
        if (code := self.process.poll()) is not None:
            raise self._failure(f"{self.name} ended with code {code}")
        return is_up(self.ready_url)

    def _failure(self, what: str) -> BackendFailed:
        tail = self.log_tail()
        kind = PortTaken if "address already in use" in tail else BackendFailed
        return kind(f"{what}; the end of {self.log}:\n{tail}")


D = TypeVar("D", bound=Daemon)


def launched(make: Callable[[], D]) -> D:
    """
    Launch what `make` gives on free ports, on others where one was taken meanwhile.
    """
    for _ in range(START_TRIES - 1):
        with contextlib.suppress(PortTaken):
            return make().launch()
    return make().launch()
