"""The effective settings, as a file that would give the same again; where each came from is behind it."""

import re
from collections.abc import Iterator, Mapping

from otel_qemu.export.endpoint import Signal, endpoint
from otel_qemu.export.text import printable
from otel_qemu.settings.sources import Effective
from otel_qemu.settings.table import SETTINGS

_STANDARD = re.compile(r"OTEL_(?!QEMU_)\w+", re.ASCII)
_SAID = re.compile(
    r"OTEL_(EXPORTER_OTLP_|BSP_|METRIC_|METRICS_|TRACES_|SDK_DISABLED$|RESOURCE_ATTRIBUTES$|SERVICE_NAME$)", re.ASCII
)
"""Variables whose values are no secrets; headers are, and what we do not know may be."""
_MASK = "***"


def print_config(effective: Effective, environment: Mapping[str, str]) -> str:
    """
    TOML, ending in a newline.

    Raises:
        BadInput: an ``OTEL_*`` variable has a value that it must not have.
    """
    lines = [f"# {effective.file or 'no file'}; a flag wins over the environment, the environment over the file"]
    lines += _settings(effective)
    lines += ["", "# Where OTLP goes, by the standard OTEL_* variables; headers are not shown."]
    lines += _endpoints()
    lines += _variables(environment)
    return "\n".join(lines) + "\n"


def _settings(effective: Effective) -> Iterator[str]:
    for name, setting in SETTINGS.items():
        value = setting.kind.show(getattr(effective.settings, setting.field))
        yield f"{name} = {value}  # {printable(effective.origins[name])}"


def _endpoints() -> Iterator[str]:
    for signal in Signal:
        found = endpoint(signal)
        headers = ", ".join(f"{name}={_MASK}" for name, _ in found.headers)
        parts = [found.protocol, "gzip" if found.gzip else "uncompressed", f"{found.timeout_s:g} s a request"]
        parts += [f"headers {headers}"] if headers else []
        yield f"# {signal}: {found.name}, {', '.join(parts)}"


def _variables(environment: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(filter(_STANDARD.fullmatch, environment)):
        if environment[name].strip():
            yield f"# {name}={_shown(name, environment[name].strip())}"


def _shown(name: str, value: str) -> str:
    if name.endswith("_HEADERS"):
        return ",".join(f"{printable(pair.partition('=')[0].strip())}={_MASK}" for pair in value.split(","))
    if not _SAID.match(name):
        return _MASK
    return printable(_without_password(value) if name.endswith("_ENDPOINT") else value)


def _without_password(url: str) -> str:
    """User names, passwords and queries are where people put tokens."""
    return re.sub(r"\?.*", f"?{_MASK}", re.sub(r"//[^/]*@", f"//{_MASK}@", url))
