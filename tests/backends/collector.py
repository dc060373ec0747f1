# SPDX-License-Identifier: Apache-2.0
"""
Build an OpenTelemetry Collector once, and run it with the files of `collector/` on free loopback ports.

In: a file of configuration, and what its variables are to say beside addresses.  Out: endpoints, and the metrics that
it offers.  Nothing in the file is changed: addresses are given by the environment, as its users do.
"""

import hashlib
import re
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from .build import Go, Say, built
from .config import LOOPBACK, free_ports
from .daemon import Daemon, launched

ROOT = Path(__file__).parents[2]
CONFIGURATIONS = ROOT / "collector"
MANIFEST = CONFIGURATIONS / "builder.yaml"
BUILDER = "go.opentelemetry.io/collector/cmd/builder"
FEATURE_GATES = "processor.tailsamplingprocessor.usetracestate"

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def install(cache: Path, say: Say, manifest_path: Path = MANIFEST) -> Path:
    """
    Return the Collector of a manifest, building it first where the cache has none (minutes).

    Raises:
        BackendMissing: it cannot be built here.
    """
    manifest = manifest_path.read_bytes()
    version = _version(manifest)
    name = f"otelcol-v{version}-{hashlib.sha256(manifest).hexdigest()[:8]}"
    return built(cache, name, f"Collector {version}", say, lambda go: _build(go, version, manifest_path))


def _version(manifest: bytes) -> str:
    found = re.search(r"^  version: ([\d.]+)$", manifest.decode(), re.M)
    assert found, "the manifest has no version"
    return found[1]


def _build(go: Go, version: str, manifest_path: Path) -> Path:
    # The builder writes a main package and its go.mod; it would compile it too, but without a word meanwhile.
    go.run(go.program, "install", f"{BUILDER}@v{version}")
    main = go.folder / "main"
    go.run(str(go.folder / "builder"), f"--config={manifest_path}", f"--output-path={main}", "--skip-compilation")
    return go.build(main, ".")


class Collector(Daemon):
    """
    One Collector process: `with Collector.start(binary, directory, "gateway.yaml") as gateway: …`.

    `otlp_grpc`, `otlp_http`, `prometheus` (its /metrics), `own_metrics` and `health` are URLs, `grpc_address` is
    host:port.
    """

    def __init__(self, binary: Path, directory: Path, configuration: str, variables: Mapping[str, str]) -> None:
        grpc, http, health, prometheus, own = free_ports(5)
        super().__init__(configuration, directory / f"{configuration}-{grpc}.log")
        self.grpc_address = f"{LOOPBACK}:{grpc}"
        self.otlp_grpc, self.otlp_http = f"http://{LOOPBACK}:{grpc}", f"http://{LOOPBACK}:{http}"
        self.health = f"http://{LOOPBACK}:{health}"
        self.prometheus = f"http://{LOOPBACK}:{prometheus}/metrics"
        self.own_metrics = f"http://localhost:{own}/metrics"
        self._binary, self._configuration = binary, CONFIGURATIONS / configuration
        self._variables = {
            "OTELCOL_OTLP_GRPC": self.grpc_address,
            "OTELCOL_OTLP_HTTP": f"{LOOPBACK}:{http}",
            "OTELCOL_HEALTH": f"{LOOPBACK}:{health}",
            "OTELCOL_PROMETHEUS": f"{LOOPBACK}:{prometheus}",
            "OTELCOL_METRICS_PORT": str(own),
            "OTELCOL_INSECURE": "true",
            "OTELCOL_QUEUE": str(directory / f"queue-{grpc}"),
            **variables,
        }

    @classmethod
    def start(cls, binary: Path, directory: Path, configuration: str, **variables: str) -> Self:
        """
        Start one on free ports, on others where one was taken meanwhile, and wait until it is ready.
        """
        return launched(lambda: cls(binary, directory, configuration, variables))

    @property
    def command(self) -> Sequence[str]:
        return [str(self._binary), "--config", str(self._configuration), f"--feature-gates={FEATURE_GATES}"]

    @property
    def ready_url(self) -> str:
        return self.health

    @property
    def variables(self) -> Mapping[str, str]:
        return self._variables

    def kill(self) -> None:
        """
        End it as a crash does: it saves nothing.
        """
        assert self.process is not None
        self.process.kill()
        self.process.wait(60)
        self.process = None

    def metrics(self) -> str:
        """
        Return what it offers to Prometheus now, in the format that has exemplars.
        """
        return _text(self.prometheus)

    def own(self, name: str) -> float:
        """
        Return the sum of all series of one of its own metrics, 0 where there is none yet.
        """
        values = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", _text(self.own_metrics), re.M)
        return sum(map(float, values))


def _text(url: str) -> str:
    request = urllib.request.Request(url, headers={"Accept": "application/openmetrics-text;version=1.0.0"})
    with _opener.open(request, timeout=120) as answer:
        text: str = answer.read().decode()
        return text
