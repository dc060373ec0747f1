# SPDX-License-Identifier: Apache-2.0
"""What deploy/ has for other people's programs, checked by what these programs offer for it."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from otel_qemu.export.metrics.instruments import INSTRUMENTS
from otel_qemu.export.resources import Resources
from otel_qemu.trace.names import Guest
from tests.dashboards import DASHBOARDS, asked_of, load
from tests.support.decoded import resource_of

from .build import cache_folder
from .collector import Collector
from .go import find_go
from .jaeger import wait_for
from .otlp import instruments_request, post
from .prometheus_text import labels_by_series

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE_MODULE, COMPOSE_VERSION = "github.com/compose-spec/compose-go/v2", "v2.16.2"
WAIT_S = 60.0


@pytest.fixture
def gateway(otelcol: Path, tmp_path: Path) -> Iterator[Collector]:
    with Collector.start(otelcol, tmp_path, "gateway.yaml") as gateway:
        yield gateway


def test_dashboards_ask_for_what_really_arrives(gateway: Collector) -> None:
    """Every metric that we may export, sent through the gateway, comes out under the names that queries have for it."""
    own = {"service.name": "otel-qemu", "service.instance.id": "host", "host.name": "hypervisor"}
    guest = resource_of(Resources().of(Guest(4711, "qemu-system-x86_64", "uuid", "web1")))
    post(gateway.otlp_http, "metrics", instruments_request(INSTRUMENTS.values(), guest))
    post(gateway.otlp_http, "metrics", instruments_request(INSTRUMENTS.values(), own))
    expected = {asked.metric for path in DASHBOARDS for asked in asked_of(load(path))}

    def arrived() -> dict[str, set[str]]:
        return labels_by_series(gateway.metrics())

    wait_for(lambda: expected <= arrived().keys(), WAIT_S, f"{expected - arrived().keys()}")
    for path in DASHBOARDS:
        for asked in asked_of(load(path)):
            assert asked.labels <= arrived()[asked.metric], asked


def test_compose_has_the_form_that_docker_wants() -> None:
    """By the JSON schema of the Compose specification; which would refuse what is misspelt."""
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    schema = compose_schema(cache_folder())
    jsonschema.validate(compose, schema)
    compose["services"]["grafana"]["prots"] = compose["services"]["grafana"].pop("ports")
    with pytest.raises(jsonschema.ValidationError, match="prots"):
        jsonschema.validate(compose, schema)


def compose_schema(cache: Path) -> Any:
    """Out of the module by which Docker's own program reads it, kept beside what is built."""
    kept = cache / f"compose-spec-{COMPOSE_VERSION}.json"
    if not kept.exists():
        go = find_go("the Compose specification")
        download = [go, "mod", "download", "-json", f"{COMPOSE_MODULE}@{COMPOSE_VERSION}"]
        done = subprocess.run(download, check=True, capture_output=True, text=True, cwd="/", timeout=300)
        draft = kept.with_suffix(".draft")
        draft.write_bytes(Path(json.loads(done.stdout)["Dir"], "schema/compose-spec.json").read_bytes())
        draft.replace(kept)
    return json.loads(kept.read_text())


def test_prometheus_reads_its_file() -> None:
    """By promtool of the distribution's Prometheus."""
    command = ["promtool", "check", "config", str(DEPLOY / "prometheus.yaml")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
