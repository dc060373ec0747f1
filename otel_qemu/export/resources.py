"""
One OpenTelemetry resource a guest, serialised: whose telemetry it is, and on which hypervisor.

``host.*`` is the hypervisor, ``process.*`` its QEMU process.  ``OTEL_RESOURCE_ATTRIBUTES`` and ``OTEL_SERVICE_NAME``
win over what is found out about the host, but nothing wins over which guest it is.
"""

import functools
import re
import socket
from pathlib import Path, PurePosixPath

from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

from otel_qemu import __version__
from otel_qemu.export import semconv
from otel_qemu.export.attributes import Values, key_values, texts
from otel_qemu.export.text import printable
from otel_qemu.export.transport import environment
from otel_qemu.trace.names import Guest

_MACHINE_ID = Path("/etc/machine-id")
_KEPT = 1024


class Resources:
    """
    The resources of this hypervisor's guests, each made once.

    Args:
        machine_id: file with the hypervisor's machine id; without it there is no ``host.id``.

    Raises:
        BadInput: a variable has a value that it must not have.
    """

    def __init__(self, machine_id: Path = _MACHINE_ID) -> None:
        host = _distribution() | _host(machine_id) | {semconv.SERVICE_NAME: semconv.DEFAULT_SERVICE_NAME}
        found = host | asked_for()
        self._shared = {printable(key): printable(value) for key, value in found.items()}
        self._made = functools.lru_cache(maxsize=_KEPT)(self._resource)

    def of(self, guest: Guest) -> bytes:
        """
        A message with the resource of a guest and nothing else; the same object as long as it is the same guest.

        Its resource is field 1, as in ``ResourceSpans`` and in ``ResourceMetrics``: it is either.
        """
        return self._made(guest.pid, guest.executable, guest.uuid, guest.name)

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


def asked_for() -> dict[str, str]:
    """
    Attributes that the environment asks for.

    Raises:
        BadInput: a variable has a value that it must not have.
    """
    attributes = dict(environment.pairs(environment.RESOURCE_ATTRIBUTES))
    _, service = environment.setting(environment.SERVICE_NAME)
    attributes[semconv.SERVICE_NAME] = service or attributes.get(semconv.SERVICE_NAME, "")
    return {key: value for key, value in attributes.items() if value}


def _distribution() -> dict[str, str]:
    """No SDK of OpenTelemetry's is at work; another one's name must not be its (semantic conventions, "Telemetry")."""
    return {
        semconv.SDK_NAME: semconv.DISTRO,
        semconv.SDK_LANGUAGE: "python",
        semconv.SDK_VERSION: __version__,
        semconv.DISTRO_NAME: semconv.DISTRO,
        semconv.DISTRO_VERSION: __version__,
    }


def _host(machine_id: Path) -> dict[str, str]:
    host = {semconv.HOST_NAME: socket.gethostname()}
    try:
        text = machine_id.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return host
    # systemd writes "uninitialized" there until the first boot is over.
    return host | {semconv.HOST_ID: text} if re.fullmatch(r"[0-9a-f]{32}", text) else host
