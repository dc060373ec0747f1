# SPDX-License-Identifier: Apache-2.0
"""
Whose telemetry it is: one OpenTelemetry resource a guest, and one of the sidecar itself.

``host.*`` is the hypervisor, ``process.*`` the guest's QEMU process.  What the SDK's detectors find
(``OTEL_RESOURCE_ATTRIBUTES``, ``OTEL_SERVICE_NAME``, ``OTEL_EXPERIMENTAL_RESOURCE_DETECTORS``) wins over what is found
out here about the host, but nothing wins over which guest it is.
"""

import functools
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans
from opentelemetry.sdk.resources import Resource as SdkResource

from otel_qemu import __version__
from otel_qemu.export import semconv
from otel_qemu.export.attributes import Value, Values, key_values, plain_values, texts
from otel_qemu.export.text import printable
from otel_qemu.export.transport import environment
from otel_qemu.trace.names import Guest

_MACHINE_ID = Path("/etc/machine-id")
_KEPT = 1024
_OF_THE_SIDECAR = ("process.", "telemetry.sdk.", "service.instance.")
"""What detectors find out about us, and not about a guest."""


class Resources:
    """
    The resources of this hypervisor's guests, each made once.

    Args:
        machine_id: file with the hypervisor's machine id; without it there is no ``host.id``.

    Raises:
        BadInput: a variable has a value that it must not have.
    """

    def __init__(self, machine_id: Path = _MACHINE_ID) -> None:
        self._detected = _host(machine_id) | asked_for() | _DISTRIBUTION
        of_host = {key: value for key, value in self._detected.items() if not key.startswith(_OF_THE_SIDECAR)}
        self._shared = _NO_SDK | {semconv.SERVICE_NAME: semconv.DEFAULT_SERVICE_NAME} | of_host
        self._made = functools.lru_cache(maxsize=_KEPT)(self._resource)

    def of(self, guest: Guest) -> bytes:
        """
        A message with the resource of a guest and nothing else; the same object as long as it is the same guest.

        Its resource is field 1, as in ``ResourceSpans`` and in ``ResourceMetrics``: it is either.
        """
        return self._made(guest.pid, guest.executable, guest.uuid, guest.name)

    def sidecar(self) -> SdkResource:
        """Ours: on the guests' host, under our own name, which is the same after a restart."""
        host = self._detected.get(semconv.HOST_ID) or self._detected[semconv.HOST_NAME]
        own: Values = {
            semconv.SERVICE_NAME: semconv.DISTRO,
            semconv.SERVICE_INSTANCE_ID: host,
            semconv.PROCESS_PID: os.getpid(),
            semconv.PROCESS_EXECUTABLE_NAME: semconv.DISTRO,
        }
        return SdkResource({**self._detected, **own})

    def _resource(self, pid: int, executable: str, uuid: str | None, name: str | None) -> bytes:
        instance = uuid or f"pid-{pid}@{self._shared[semconv.HOST_NAME]}"
        # /proc/PID/exe of an upgraded binary says so in its text.
        program = PurePosixPath(executable.removesuffix(" (deleted)")).name
        own = {
            semconv.SERVICE_INSTANCE_ID: instance,
            semconv.DOMAIN_UUID: uuid,
            semconv.DOMAIN_NAME: name,
            semconv.PROCESS_EXECUTABLE_NAME: program,
        }
        values: Values = {**self._shared, **texts(own), semconv.PROCESS_PID: pid}
        return ResourceSpans(resource=Resource(attributes=key_values(values))).SerializeToString()


@functools.lru_cache(maxsize=_KEPT)
def sdk_resource(resource: bytes) -> SdkResource:
    """What `Resources.of` gave, as the SDK has it."""
    return SdkResource(plain_values(ResourceSpans.FromString(resource).resource.attributes))


def asked_for() -> Values:
    """
    What the SDK's detectors find, without what has no value.

    Raises:
        BadInput: a variable has a value that it must not have.
    """
    environment.pairs(environment.RESOURCE_ATTRIBUTES)  # the SDK leaves out a part that it cannot read
    found: Mapping[str, object] = SdkResource.create().attributes
    values = {printable(key): _plain(value) for key, value in found.items() if value != ""}
    if str(values[semconv.SERVICE_NAME]).startswith("unknown_service"):  # nobody has named it
        del values[semconv.SERVICE_NAME]
    return values


def _plain(value: object) -> Value:
    return value if isinstance(value, bool | int | float) else printable(str(value))


_DISTRIBUTION: Values = {semconv.DISTRO_NAME: semconv.DISTRO, semconv.DISTRO_VERSION: __version__}
_NO_SDK: Values = {
    semconv.SDK_NAME: semconv.DISTRO,
    semconv.SDK_LANGUAGE: "python",
    semconv.SDK_VERSION: __version__,
}
"""Guests have no SDK of OpenTelemetry's; ours must not take its name (semantic conventions, "Telemetry")."""


def _host(machine_id: Path) -> Values:
    host: Values = {semconv.HOST_NAME: socket.gethostname()}
    try:
        text = machine_id.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return host
    # systemd writes "uninitialized" there until the first boot is over.
    return host | {semconv.HOST_ID: text} if re.fullmatch(r"[0-9a-f]{32}", text) else host
