# SPDX-License-Identifier: Apache-2.0
"""One resource a guest: whose telemetry it is, and what the environment may change of it."""

import os
from pathlib import Path
from typing import Any

import pytest

from otel_qemu import __version__
from otel_qemu.errors import BadInput
from otel_qemu.export.resources import Resources, sdk_resource
from otel_qemu.trace.names import Guest
from tests.support.builders import ALPHA
from tests.support.decoded import resource_of

MACHINE_ID = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    monkeypatch.delenv("OTEL_RESOURCE_ATTRIBUTES", raising=False)
    monkeypatch.setattr("socket.gethostname", lambda: "hv1")


@pytest.fixture
def machine_id(tmp_path: Path) -> Path:
    path = tmp_path / "machine-id"
    path.write_text(f"{MACHINE_ID}\n")
    return path


def of(guest: Guest, machine_id: Path) -> dict[str, Any]:
    return resource_of(Resources(machine_id).of(guest))


def test_a_guest_is_named_by_its_domain(machine_id: Path) -> None:
    values = of(ALPHA, machine_id)
    assert values.pop("telemetry.sdk.version") == values.pop("telemetry.distro.version") == __version__
    assert values == {
        "service.name": "qemu",
        "service.instance.id": ALPHA.uuid,
        "qemu.domain.uuid": ALPHA.uuid,
        "qemu.domain.name": "alpha",
        "process.pid": ALPHA.pid,
        "process.executable.name": "qemu-system-x86_64",
        "host.name": "hv1",
        "host.id": MACHINE_ID,
        "telemetry.sdk.name": "otel-qemu",
        "telemetry.sdk.language": "python",
        "telemetry.distro.name": "otel-qemu",
    }


def test_a_process_that_libvirt_does_not_know_is_named_by_process_and_host(machine_id: Path) -> None:
    values = of(Guest(7, "/usr/bin/qemu-system-x86_64 (deleted)"), machine_id)
    assert values["service.instance.id"] == "pid-7@hv1"
    assert values["process.executable.name"] == "qemu-system-x86_64"
    assert not {"qemu.domain.uuid", "qemu.domain.name"} & set(values)


def test_the_environment_names_service_and_host_but_not_the_guest(
    machine_id: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "OTEL_RESOURCE_ATTRIBUTES",
        "service.name=other,service.namespace=prod%20eu,host.name=node7,process.pid=1,qemu.domain.name=x,"
        "service.instance.id=me",
    )
    values = of(ALPHA, machine_id)
    assert values["service.name"] == "other"
    assert (values["service.namespace"], values["host.name"]) == ("prod eu", "node7")
    assert (values["process.pid"], values["qemu.domain.name"]) == (ALPHA.pid, "alpha")
    assert values["service.instance.id"] == ALPHA.uuid
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    assert of(ALPHA, machine_id)["service.name"] == "mine"


@pytest.mark.parametrize("text", ["a", "a=1,b", "=1", "a=1,=", "a;b"])
def test_attributes_that_are_none_are_refused_by_name(
    text: str, machine_id: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", text)
    with pytest.raises(BadInput, match=r"^OTEL_RESOURCE_ATTRIBUTES: part \d is not a pair like name=value$"):
        Resources(machine_id)


def test_an_attribute_without_a_value_is_none(machine_id: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service without a name would be one for all backends."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=, x = , y=a=b%2C ,")
    values = of(ALPHA, machine_id)
    assert (values["service.name"], values["y"]) == ("qemu", "a=b,")
    assert "x" not in values


@pytest.mark.parametrize("content", [None, b"", b"uninitialized\n", b"\xff\xfe"])
def test_without_a_machine_id_there_is_no_host_id(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "machine-id"
    if content is not None:
        path.write_bytes(content)
    assert "host.id" not in of(ALPHA, path)


def test_a_guest_has_one_resource(machine_id: Path) -> None:
    resources = Resources(machine_id)
    assert resources.of(ALPHA) is resources.of(Guest(ALPHA.pid, ALPHA.executable, ALPHA.uuid, ALPHA.name))
    assert resources.of(ALPHA) != resources.of(Guest(ALPHA.pid + 1, ALPHA.executable, ALPHA.uuid, ALPHA.name))
    assert resources.of(ALPHA) == Resources(machine_id).of(ALPHA)


def test_detectors_find_the_host_for_all_and_the_process_for_us(
    machine_id: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK's, by its variable: what they find out about this process is nothing about a guest's."""
    monkeypatch.setenv("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "os,process")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.namespace=prod")
    resources = Resources(machine_id)
    ours, guests = resources.sidecar().attributes, resource_of(resources.of(ALPHA))
    for values in (ours, guests):
        assert (values["os.type"], values["service.namespace"], values["host.name"]) == ("linux", "prod", "hv1")
    assert not [key for key in guests if key.startswith("process.runtime")]
    assert guests["process.pid"] == ALPHA.pid
    assert ours["process.runtime.name"] == "cpython"
    assert (ours["process.pid"], ours["service.name"]) == (os.getpid(), "otel-qemu")
    assert (ours["telemetry.sdk.name"], guests["telemetry.sdk.name"]) == ("opentelemetry", "otel-qemu")
    assert ours["telemetry.distro.name"] == "otel-qemu"


def test_the_sdk_has_the_same_of_a_guest(machine_id: Path) -> None:
    """Every attribute, of its type; and each guest's resource is made once."""
    resource = Resources(machine_id).of(ALPHA)
    assert dict(sdk_resource(resource).attributes) == resource_of(resource)
    assert sdk_resource(resource) is sdk_resource(resource)
