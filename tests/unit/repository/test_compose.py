# SPDX-License-Identifier: Apache-2.0
"""deploy/compose.yaml: every version is pinned, every file is there, and services are called what others call them."""

import re
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[3] / "deploy"
SERVICES: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]


def test_images_have_a_version() -> None:
    """A whole one."""
    for service in SERVICES.values():
        assert re.fullmatch(r"[\w/-]+:v?\d+\.\d+\.\d+", service["image"])


def test_the_collector_is_the_one_that_tests_build() -> None:
    """So that what is tested is what runs."""
    manifest = yaml.safe_load((DEPLOY.parent / "collector/builder.yaml").read_text())
    assert SERVICES["collector"]["image"].endswith(f":{manifest['dist']['version']}")


def test_what_is_mounted_is_there_and_where_it_is_looked_for() -> None:
    """Files of this checkout, read-only; a path on a service's command line or in provisioning is one of them."""
    for service in SERVICES.values():
        inside = []
        for mount in service.get("volumes", ()):
            source, target, mode = mount.split(":")
            assert (DEPLOY / source).exists()
            assert mode == "ro"
            inside.append(target)
        for option in service.get("command", ()):
            path = option.partition("=")[2]
            assert not path.startswith("/") or path in inside
    (dashboards,) = yaml.safe_load(
        (DEPLOY / "grafana/provisioning/dashboards/otel-qemu.yaml").read_text()
    )["providers"]  # fmt: skip
    assert f"./grafana/dashboards:{dashboards['options']['path']}:ro" in SERVICES["grafana"]["volumes"]


def test_services_find_each_other() -> None:
    """Host names in variables, in Prometheus' targets and in Grafana's sources are names of services."""
    (scrape,) = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())["scrape_configs"]
    sources = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/otel-qemu.yaml").read_text())["datasources"]
    named = {SERVICES["collector"]["environment"]["OTELCOL_JAEGER"].partition(":")[0]}
    named |= {target.partition(":")[0] for config in scrape["static_configs"] for target in config["targets"]}
    named |= {source["url"].split("/")[2].partition(":")[0] for source in sources}
    assert named == {"collector", "jaeger", "prometheus"}
    assert named <= set(SERVICES)


def test_only_this_machine_reaches_them() -> None:
    """Nothing here asks for a password."""
    assert all(port.startswith("127.0.0.1:") for service in SERVICES.values() for port in service.get("ports", ()))


def test_every_file_of_yaml_is_one() -> None:
    """Those too that no program here reads; Tempo listens where the gateway's comments say that it does."""
    files = [*DEPLOY.rglob("*.yaml"), *(DEPLOY.parent / "collector").glob("*.yaml")]
    assert len(files) == 8
    read = {file.name: yaml.safe_load(file.read_text()) for file in files}
    assert all(isinstance(document, dict) for document in read.values())
    receivers = read["tempo.yaml"]["distributor"]["receivers"]
    assert receivers["otlp"]["protocols"]["grpc"]["endpoint"].endswith(":4317")
