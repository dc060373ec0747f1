"""
Run a Jaeger of one's own on free loopback ports, keeping traces in memory.

In: its executable and a folder for configuration and log.  Out: endpoints, and the traces sent to them.
A child of ours, and never more: whatever goes wrong while it starts, none is left behind.
"""

import contextlib
import os
import subprocess
from dataclasses import astuple
from pathlib import Path
from types import TracebackType
from typing import Self

from .build import VERSION, BackendMissing, cache_folder, install
from .config import LOOPBACK, Ports, config_yaml
from .otlp_json import Event, Span, Trace
from .query import QueryFailed, Reader, is_up, wait_for

__all__ = [
    "VERSION", "BackendFailed", "BackendMissing", "Event", "Jaeger", "PortTaken", "Ports", "QueryFailed",
    "Reader", "Span", "Trace", "cache_folder", "install", "wait_for",
]  # fmt: skip

START_TRIES = 5
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
LOG_TAIL_LINES = 20


class BackendFailed(Exception):
    """
    A backend did not start; the text ends with the tail of its log.
    """


class PortTaken(BackendFailed):
    """
    Another process has one of its ports.
    """


class Jaeger(Reader):
    """
    One Jaeger process: `with Jaeger.start(binary, directory) as jaeger: …`.

    `otlp_grpc`, `otlp_http` (as OTEL_EXPORTER_OTLP_ENDPOINT has it, without /v1/traces), `query`,
    `query_grpc` and `health` are URLs.
    """

    def __init__(self, binary: Path, directory: Path, ports: Ports) -> None:
        urls = [f"http://{LOOPBACK}:{port}" for port in astuple(ports)]
        self.otlp_grpc, self.otlp_http, query, self.query_grpc, self.health = urls
        super().__init__(query)
        self.binary = binary
        self.ports = ports
        self.config = directory.resolve() / "jaeger.yaml"
        self.log = self.config.with_name("jaeger.log")
        self.process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @classmethod
    def start(cls, binary: Path, directory: Path) -> Self:
        """
        Start one on free ports, on others where one was taken meanwhile, and wait until it is ready.
        """
        for _ in range(START_TRIES - 1):
            with contextlib.suppress(PortTaken):
                return cls(binary, directory, Ports.free()).launch()
        return cls(binary, directory, Ports.free()).launch()

    def launch(self) -> Self:
        """
        Start it on its ports, the first time or again after `stop`; its memory is empty then.
        """
        assert self.process is None, "it runs already"
        self.config.parent.mkdir(parents=True, exist_ok=True)
        self.config.write_text(config_yaml(self.ports))
        self._spawn()
        try:
            wait_for(self._is_ready, START_TIMEOUT_S, "Jaeger to be ready")
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
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def log_tail(self) -> str:
        """
        Return the last lines that it logged since it was last started.
        """
        with self.log.open(errors="replace") as log:
            log.seek(self._log_start)
            return "".join(log.readlines()[-LOG_TAIL_LINES:])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _spawn(self) -> None:
        # A process group of its own: Ctrl-C is for us, and we end it. No OTEL_*: those are for whom we test.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self.process = subprocess.Popen(
                [self.binary, "--config", self.config],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=environment, start_new_session=True,
            )  # fmt: skip

    def _is_ready(self) -> bool:
        assert self.process is not None
        if (code := self.process.poll()) is not None:
            raise self._failure(f"Jaeger ended with code {code}")
        return is_up(f"{self.health}/status")

    def _failure(self, what: str) -> BackendFailed:
        tail = self.log_tail()
        kind = PortTaken if "address already in use" in tail else BackendFailed
        return kind(f"{what}; the end of {self.log}:\n{tail}")
