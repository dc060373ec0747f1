# SPDX-License-Identifier: Apache-2.0
"""
Build a Prometheus once, and run it on a free loopback port, where it takes OTLP metrics and keeps them in a folder.

In: its executable and a folder.  Out: an endpoint, and what its query API says of what was sent there.
It scrapes nothing.  Names are translated as its default is: dots become underscores, units and ``_total`` are appended.
"""

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from .build import Go, Say, built
from .config import LOOPBACK, free_ports
from .daemon import Daemon, launched
from .query import QueryFailed

TIMEOUT_S = 120.0
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

    def build(go: Go) -> Path:
        return go.build(go.module(MODULE, MODULE_VERSION), "./cmd/prometheus", f"-tags={LEFT_OUT}")

    return built(cache, f"prometheus-{MODULE_VERSION}", f"Prometheus {VERSION}", say, build)


class Prometheus(Daemon):
    """
    One Prometheus process: `with Prometheus.start(binary, directory) as prometheus: …`.

    `otlp_metrics` is its endpoint as OTEL_EXPORTER_OTLP_METRICS_ENDPOINT has it, for http/protobuf; `url` its own.
    """

    def __init__(self, binary: Path, directory: Path, port: int) -> None:
        super().__init__("Prometheus", directory.resolve() / "prometheus.log")
        self.url = f"http://{LOOPBACK}:{port}"
        self.otlp_metrics = f"{self.url}/api/v1/otlp/v1/metrics"
        self._line = [
            str(binary), f"--config.file={directory.resolve() / 'prometheus.yaml'}",
            f"--storage.tsdb.path={directory.resolve() / 'data'}", f"--web.listen-address={LOOPBACK}:{port}",
            "--web.enable-otlp-receiver", f"--enable-feature={FEATURES}",
        ]  # fmt: skip

    @classmethod
    def start(cls, binary: Path, directory: Path) -> Self:
        """
        Start one on a free port, on another where that was taken meanwhile, and wait until it is ready.
        """
        (directory / "prometheus.yaml").write_text(CONFIG)
        return launched(lambda: cls(binary, directory, *free_ports(1)))

    @property
    def command(self) -> Sequence[str]:
        return self._line

    @property
    def ready_url(self) -> str:
        return f"{self.url}/-/ready"

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

    def _ask(self, path: str, query: dict[str, str]) -> Any:
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with _opener.open(url, timeout=TIMEOUT_S) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise QueryFailed(f"{url}: {error.code} {error.read().decode().strip()}") from None
