"""
Build a Prometheus once, and run it on a free loopback port, where it takes OTLP metrics and keeps them in a folder.

In: its executable and a folder.  Out: an endpoint, and what its query API says of what was sent there.
It scrapes nothing.  Names are translated as its default is: dots become underscores, units and ``_total`` are appended.
"""

import contextlib
import json
import os
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .build import Say, find_go, run_go, work_folder
from .config import LOOPBACK, Ports
from .jaeger import LOG_TAIL_LINES, START_TIMEOUT_S, START_TRIES, STOP_TIMEOUT_S, BackendFailed, PortTaken
from .query import QueryFailed, is_up, wait_for

TIMEOUT_S = 30.0
CONFIG = """\
global:
  scrape_interval: 1h
otlp:
  promote_resource_attributes: [qemu.domain.name, process.pid]
"""
FEATURES = "exemplar-storage,otlp-deltatocumulative"

MODULE = "github.com/prometheus/prometheus"
MODULE_VERSION = "v0.314.0"
VERSION = "v3.14.0"  # the same, as its users know it
LEFT_OUT = "remove_all_sd"  # service discovery, which is most of its dependencies

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def install(cache: Path, say: Say) -> Path:
    """
    Return its executable, building it first where the cache has none (minutes).

    Raises:
        BackendMissing: it cannot be built here.
    """
    executable = cache.resolve() / f"prometheus-{MODULE_VERSION}"
    if not os.access(executable, os.X_OK):
        go = find_go()
        cache.mkdir(parents=True, exist_ok=True)
        with work_folder(executable.parent) as folder:
            _build(go, Path(folder), say).replace(executable)
    return executable


def _build(go: str, folder: Path, say: Say) -> Path:
    # From the module's own folder, so that its own go.sum and replace hold.
    what, started = f"Prometheus {VERSION}", time.monotonic()
    environment = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off", "GOTMPDIR": str(folder)}
    say(f"building {what} with {go}; once, some minutes")
    download = [go, "mod", "download", "-json", f"{MODULE}@{MODULE_VERSION}"]
    source = json.loads(run_go(download, folder, environment, say, what))["Dir"]
    output = folder / "prometheus"
    flags = ["-v", "-trimpath", "-ldflags=-s -w", f"-tags={LEFT_OUT}", "-o", str(output)]
    run_go([go, "build", "-C", source, *flags, "./cmd/prometheus"], folder, environment, say, what)
    say(f"built {what} in {time.monotonic() - started:.0f} s")
    return output


class Prometheus:
    """
    One Prometheus process: `with Prometheus.start(binary, directory) as prometheus: …`.

    `otlp_metrics` is its endpoint as OTEL_EXPORTER_OTLP_METRICS_ENDPOINT has it, for http/protobuf; `url` its own.
    """

    def __init__(self, binary: Path, directory: Path, port: int) -> None:
        self.url = f"http://{LOOPBACK}:{port}"
        self.otlp_metrics = f"{self.url}/api/v1/otlp/v1/metrics"
        self.log = directory.resolve() / "prometheus.log"
        self._line = [
            str(binary), f"--config.file={directory.resolve() / 'prometheus.yaml'}",
            f"--storage.tsdb.path={directory.resolve() / 'data'}", f"--web.listen-address={LOOPBACK}:{port}",
            "--web.enable-otlp-receiver", f"--enable-feature={FEATURES}",
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(cls, binary: Path, directory: Path) -> Self:
        """
        Start one on a free port, on another where that was taken meanwhile, and wait until it is ready.
        """
        (directory / "prometheus.yaml").write_text(CONFIG)
        for _ in range(START_TRIES - 1):
            with contextlib.suppress(PortTaken):
                return cls(binary, directory, Ports.free().query)._launch()
        return cls(binary, directory, Ports.free().query)._launch()

    def query(self, text: str) -> list[tuple[dict[str, str], float]]:
        """
        Return labels and value of each series that a PromQL expression gives now.
        """
        answer = self._ask("query", {"query": text})
        return [(row["metric"], float(row["value"][1])) for row in answer["result"]]

    def exemplars(self, metric: str, start_unix_s: float, end_unix_s: float) -> list[dict[str, Any]]:
        """
        Return the exemplars of a metric: each with ``labels``, ``value`` and ``timestamp``.
        """
        answer = self._ask("query_exemplars", {"query": metric, "start": str(start_unix_s), "end": str(end_unix_s)})
        return [exemplar for row in answer for exemplar in row["exemplars"]]

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(self) -> Self:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self._line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        try:
            wait_for(self._is_ready, START_TIMEOUT_S, "Prometheus to be ready")
        except TimeoutError as timeout:
            self.stop()
            raise self._failure(str(timeout)) from None
        except BaseException:
            self.stop()
            raise
        return self

    def _is_ready(self) -> bool:
        assert self.process is not None
        if (code := self.process.poll()) is not None:
            raise self._failure(f"Prometheus ended with code {code}")
        return is_up(f"{self.url}/-/ready")

    def _failure(self, what: str) -> BackendFailed:
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
        kind = PortTaken if "address already in use" in tail else BackendFailed
        return kind(f"{what}; the end of {self.log}:\n{tail}")

    def _ask(self, path: str, query: dict[str, str]) -> Any:
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with _opener.open(url, timeout=TIMEOUT_S) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise QueryFailed(f"{url}: {error.code} {error.read().decode().strip()}") from None
