# SPDX-License-Identifier: Apache-2.0
"""
One Jaeger and one Prometheus for the tests of a module, and a name of its own for each test's spans.
"""

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.kernel.fake_qemu import FakeQemu

from . import collector
from . import prometheus as prometheus_backend
from .jaeger import BackendMissing, Jaeger, cache_folder, install
from .prometheus import Prometheus
from .ui import install_ui

Install = Callable[[Path, Callable[[str], None]], Path]


@pytest.fixture(scope="session")
def binary(request: pytest.FixtureRequest) -> Path:
    """
    Jaeger's executable. Where it cannot be had its tests are skipped, and fail with --require=backends.
    """
    return _installed(request, install)


@pytest.fixture(scope="session")
def prometheus_binary(request: pytest.FixtureRequest) -> Path:
    """
    Prometheus's executable; the same holds for it.
    """
    return _installed(request, prometheus_backend.install)


@pytest.fixture(scope="session")
def otelcol(request: pytest.FixtureRequest) -> Path:
    """
    The Collector's executable; the same holds for it.
    """
    return _installed(request, collector.install)


def _installed(request: pytest.FixtureRequest, install: Install) -> Path:
    try:
        return install(cache_folder(), print)
    except BackendMissing as missing:
        if "backends" in (request.config.getoption("--require", default=None) or ()):
            raise
        pytest.skip(f"{missing} (--require=backends makes this a failure)")


@pytest.fixture(scope="module")
def jaeger(binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger]:
    """
    With its page where that can be had; only tests/browser needs it.
    """
    with Jaeger.start(binary, tmp_path_factory.mktemp("jaeger"), install_ui(cache_folder(), print)) as jaeger:
        yield jaeger


@pytest.fixture(scope="module")
def prometheus(prometheus_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with Prometheus.start(prometheus_binary, tmp_path_factory.mktemp("prometheus")) as prometheus:
        yield prometheus


@pytest.fixture
def service(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


@pytest.fixture
def qemu() -> Iterator[FakeQemu]:
    """
    A fake QEMU, to have something to measure.
    """
    if os.geteuid() != 0 or find_spec("bcc") is None:
        pytest.skip("uprobes are attached as root, with python3-bpfcc")
    with FakeQemu() as qemu:
        yield qemu


@pytest.fixture
def metrics_variables(prometheus: Prometheus, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Metrics go to Prometheus, at an interval that a test can wait for.
    """
    for name in [name for name in os.environ if name.startswith("OTEL_") and not name.startswith("OTEL_QEMU")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", prometheus.otlp_metrics)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/protobuf")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "500")
