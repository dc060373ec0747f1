# SPDX-License-Identifier: Apache-2.0
"""
Run a Jaeger of one's own on free loopback ports, keeping traces in memory.

In: its executable and a folder for configuration and log.  Out: endpoints, and the traces sent to them.
"""

from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Self

from .build import BackendMissing, Go, Say, built, cache_folder
from .config import LOOPBACK, Ports, config_yaml
from .daemon import BackendFailed, Daemon, PortTaken, launched
from .otlp_json import Event, Span, Trace
from .query import QueryFailed, Reader, wait_for

__all__ = [
    "VERSION", "BackendFailed", "BackendMissing", "Event", "Jaeger", "PortTaken", "Ports", "QueryFailed",
    "Reader", "Span", "Trace", "cache_folder", "install", "wait_for",
]  # fmt: skip

MODULE = "github.com/jaegertracing/jaeger"
MODULE_VERSION = "v1.76.0"
VERSION = "v2.13.0"  # the same commit: upstream tags it twice, and its module path has no /v2


def install(cache: Path, say: Say) -> Path:
    """
    Return Jaeger's executable, building it first where the cache has none (minutes).

    Raises:
        BackendMissing: it cannot be built here.
    """

    def build(go: Go) -> Path:
        return go.build(go.module(MODULE, MODULE_VERSION), "./cmd/jaeger")

    return built(cache, f"jaeger-{MODULE_VERSION}", f"Jaeger {VERSION}", say, build)


class Jaeger(Daemon, Reader):
    """
    One Jaeger process: `with Jaeger.start(binary, directory) as jaeger: …`; its memory is empty after each launch.

    `otlp_grpc`, `otlp_http` (as OTEL_EXPORTER_OTLP_ENDPOINT has it, without /v1/traces), `query`,
    `query_grpc` and `health` are URLs.
    """

    def __init__(self, binary: Path, directory: Path, ports: Ports, ui: Path | None = None) -> None:
        """
        Choose what to run; `launch` starts it.

        Args:
            ui: the folder of Jaeger UI's build; None for a Jaeger without its page.
        """
        directory = directory.resolve()
        Daemon.__init__(self, "Jaeger", directory / "jaeger.log")
        urls = [f"http://{LOOPBACK}:{port}" for port in astuple(ports)]
        self.otlp_grpc, self.otlp_http, query, self.query_grpc, self.health = urls
        Reader.__init__(self, query)
        self.binary = binary
        self.ports = ports
        self.ui = ui
        self.config = directory / "jaeger.yaml"

    @classmethod
    def start(cls, binary: Path, directory: Path, ui: Path | None = None) -> Self:
        """
        Start one on free ports, on others where one was taken meanwhile, and wait until it is ready.
        """
        return launched(lambda: cls(binary, directory, Ports.free(), ui))

    @property
    def command(self) -> Sequence[str]:
        return [str(self.binary), "--config", str(self.config)]

    @property
    def ready_url(self) -> str:
        return f"{self.health}/status"

    def launch(self) -> Self:
        """
        Write its configuration, and start it.
        """
        self.config.parent.mkdir(parents=True, exist_ok=True)
        self.config.write_text(config_yaml(self.ports, self.ui))
        return super().launch()
