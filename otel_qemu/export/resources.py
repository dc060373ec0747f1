"""
One OpenTelemetry resource a guest: whose telemetry it is, and on which hypervisor.

``host.*`` is the hypervisor, ``process.*`` its QEMU process.  ``OTEL_RESOURCE_ATTRIBUTES`` and ``OTEL_SERVICE_NAME``
win over what is found out about the host, but nothing wins over which guest it is.
"""

import functools
import importlib.metadata
import re
import socket
from pathlib import Path, PurePosixPath

from opentelemetry.sdk.resources import OTELResourceDetector, Resource

from otel_qemu import __version__
from otel_qemu.export import semconv
from otel_qemu.export.text import printable
from otel_qemu.trace.names import Guest

_MACHINE_ID = Path("/etc/machine-id")
_KEPT = 1024


class Resources:
    """
    The resources of this hypervisor's guests, each made once.

    Args:
        machine_id: file with the hypervisor's machine id; without it there is no ``host.id``.
    """

    def __init__(self, machine_id: Path = _MACHINE_ID) -> None:
        host = _distribution() | _host(machine_id) | {semconv.SERVICE_NAME: semconv.DEFAULT_SERVICE_NAME}
        found = host | dict(OTELResourceDetector().detect().attributes)
        self._shared = {printable(key): printable(str(value)) for key, value in found.items()}
        self._made = functools.lru_cache(maxsize=_KEPT)(self._resource)

    def of(self, guest: Guest) -> Resource:
        """The resource of a guest; the same object as long as it is the same process and domain."""
        return self._made(guest.pid, guest.executable, guest.uuid, guest.name)

    def _resource(self, pid: int, executable: str, uuid: str | None, name: str | None) -> Resource:
        instance = uuid or f"pid-{pid}@{self._shared[semconv.HOST_NAME]}"
        # /proc/PID/exe of an upgraded binary says so in its text.
        program = PurePosixPath(executable.removesuffix(" (deleted)")).name
        texts = {
            semconv.SERVICE_INSTANCE_ID: instance,
            semconv.DOMAIN_UUID: uuid,
            semconv.DOMAIN_NAME: name,
            semconv.PROCESS_EXECUTABLE_NAME: program,
        }
        own = {key: printable(text) for key, text in texts.items() if text}
        return _HashedOnce({**self._shared, **own, semconv.PROCESS_PID: pid})


class _HashedOnce(Resource):
    """The encoder hashes each span's resource, and the SDK's hash is a JSON dump: as dear as the span itself."""

    @functools.cached_property
    def _hash(self) -> int:
        return super().__hash__()

    def __hash__(self) -> int:
        return self._hash


def _distribution() -> dict[str, str]:
    return {
        semconv.SDK_NAME: "opentelemetry",
        semconv.SDK_LANGUAGE: "python",
        semconv.SDK_VERSION: importlib.metadata.version("opentelemetry-sdk"),
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
