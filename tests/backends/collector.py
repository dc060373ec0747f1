"""
Build an OpenTelemetry Collector once, and run it with the files of `collector/` on free loopback ports.

In: a file of configuration, and what its variables are to say beside addresses.  Out: endpoints, and the metrics that
it offers.  Nothing in the file is changed: addresses are given by the environment, as its users do.
"""

import contextlib
import hashlib
import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from .build import Say, find_go, run_go, work_folder
from .config import LOOPBACK, free_ports
from .jaeger import BackendFailed, PortTaken
from .query import is_up, wait_for

ROOT = Path(__file__).parents[2]
CONFIGURATIONS = ROOT / "collector"
MANIFEST = CONFIGURATIONS / "builder.yaml"
BUILDER = "go.opentelemetry.io/collector/cmd/builder"
FEATURE_GATES = "processor.tailsamplingprocessor.usetracestate"

START_TRIES = 5
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
LOG_TAIL_LINES = 20

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def install(cache: Path, say: Say) -> Path:
    """
    Return the Collector of collector/builder.yaml, building it first where the cache has none (minutes).

    Raises:
        BackendMissing: it cannot be built here.
    """
    manifest = MANIFEST.read_bytes()
    version = _version(manifest)
    executable = cache.resolve() / f"otelcol-v{version}-{hashlib.sha256(manifest).hexdigest()[:8]}"
    if not os.access(executable, os.X_OK):
        go = find_go()
        cache.mkdir(parents=True, exist_ok=True)
        with work_folder(executable.parent) as folder:
            _build(go, version, Path(folder), say).replace(executable)
    return executable


def _version(manifest: bytes) -> str:
    found = re.search(r"^  version: ([\d.]+)$", manifest.decode(), re.M)
    assert found, f"{MANIFEST} has no version"
    return found[1]


def _build(go: str, version: str, folder: Path, say: Say) -> Path:
    # The builder writes a main package and its go.mod; it would compile it too, but without a word meanwhile.
    what = f"Collector {version}"
    started = time.monotonic()
    environment = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off", "GOTMPDIR": str(folder), "GOBIN": str(folder)}
    environment["PATH"] = os.pathsep.join((str(Path(go).parent), environment.get("PATH", "")))
    say(f"building {what} with {go}; once, some minutes")
    run_go([go, "install", f"{BUILDER}@v{version}"], folder, environment, say, what)
    generate = [str(folder / "builder"), f"--config={MANIFEST}", f"--output-path={folder}/main", "--skip-compilation"]
    run_go(generate, folder, environment, say, what)
    output = folder / "otelcol"
    flags = ["-v", "-trimpath", "-ldflags=-s -w", "-o", str(output)]
    run_go([go, "build", "-C", str(folder / "main"), *flags, "."], folder, environment, say, what)
    say(f"built {what} in {time.monotonic() - started:.0f} s")
    return output


class Collector:
    """
    One Collector process: `with Collector.start(binary, directory, "gateway.yaml") as gateway: …`.

    `otlp_grpc`, `otlp_http`, `prometheus` (its /metrics), `own_metrics` and `health` are URLs, `grpc_address` is
    host:port.
    """

    def __init__(self, binary: Path, directory: Path, configuration: str, variables: Mapping[str, str]) -> None:
        grpc, http, health, prometheus, own = free_ports(5)
        self.grpc_address = f"{LOOPBACK}:{grpc}"
        self.otlp_grpc, self.otlp_http = f"http://{LOOPBACK}:{grpc}", f"http://{LOOPBACK}:{http}"
        self.health = f"http://{LOOPBACK}:{health}"
        self.prometheus = f"http://{LOOPBACK}:{prometheus}/metrics"
        self.own_metrics = f"http://localhost:{own}/metrics"
        self.log = directory / f"{configuration}-{grpc}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._binary, self._configuration = binary, CONFIGURATIONS / configuration
        self._variables = {
            "OTELCOL_OTLP_GRPC": self.grpc_address,
            "OTELCOL_OTLP_HTTP": f"{LOOPBACK}:{http}",
            "OTELCOL_HEALTH": f"{LOOPBACK}:{health}",
            "OTELCOL_PROMETHEUS": f"{LOOPBACK}:{prometheus}",
            "OTELCOL_METRICS_PORT": str(own),
            "OTELCOL_INSECURE": "true",
            **variables,
        }

    @classmethod
    def start(cls, binary: Path, directory: Path, configuration: str, **variables: str) -> Self:
        """
        Start one on free ports, on others where one was taken meanwhile, and wait until it is ready.
        """
        for _ in range(START_TRIES - 1):
            with contextlib.suppress(PortTaken):
                return cls(binary, directory, configuration, variables).launch()
        return cls(binary, directory, configuration, variables).launch()

    def launch(self) -> Self:
        """
        Start it on its ports.
        """
        command: list[str | Path] = [self._binary, "--config", self._configuration, f"--feature-gates={FEATURE_GATES}"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment | self._variables,
                start_new_session=True,
            )  # fmt: skip
        try:
            wait_for(self._is_ready, START_TIMEOUT_S, f"{self._configuration.name} to be ready")
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """
        End it, if it runs: politely, which sends what it holds, then by force.
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

    def log_tail(self) -> str:
        """
        Return the last lines that it logged.
        """
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _is_ready(self) -> bool:
        assert self.process is not None
        if (code := self.process.poll()) is not None:
            tail = self.log_tail()
            kind = PortTaken if "address already in use" in tail else BackendFailed
            raise kind(f"{self._configuration.name} ended with code {code}; the end of its log:\n{tail}")
        return is_up(self.health)


def _text(url: str) -> str:
    request = urllib.request.Request(url, headers={"Accept": "application/openmetrics-text;version=1.0.0"})
    with _opener.open(request, timeout=30) as answer:
        text: str = answer.read().decode()
        return text
