# SPDX-License-Identifier: Apache-2.0
"""The settings in force, as a file that gives the same again, each with its origin; then where OTLP goes."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from otel_qemu.export.delivery.limits import Limits
from otel_qemu.export.metrics.export_settings import MetricSettings
from otel_qemu.export.resources import asked_for
from otel_qemu.export.text import MASK, printable, without_secrets
from otel_qemu.export.transport.endpoint import Endpoint, Signal, endpoint
from otel_qemu.export.transport.installed import exporter
from otel_qemu.settings import SETTINGS, Settings

_STANDARD = re.compile(r"OTEL_(?!QEMU_)\w+", re.ASCII)
_PUBLIC = re.compile(
    r"OTEL_(EXPORTER_OTLP_|BSP_|METRIC_|METRICS_|TRACES_|SDK_DISABLED$|RESOURCE_ATTRIBUTES$|SERVICE_NAME$)", re.ASCII
)
"""Variables whose values are not secret. Headers are, and a variable that we do not know may be."""


def configuration_text(
    settings: Settings, origins: Mapping[str, str], file: Path | None, environment: Mapping[str, str]
) -> str:
    """
    TOML, ending in a newline.

    Args:
        settings: those in force.
        origins: where each came from, by key.
        file: the one that was read, if any.
        environment: of the process.

    Raises:
        BadInput: an ``OTEL_*`` variable has a value that it must not have.
    """
    Limits.from_environment(), asked_for()  # refuse what `run` would
    lines = [f"# {file or 'no file'}; a flag wins over the environment, the environment over the file"]
    for key, setting in SETTINGS.items():
        lines.append(f"{key} = {setting.toml(getattr(settings, str(setting.name)))}  # {printable(origins[key])}")
    lines += ["", "# Where OTLP goes, by the standard OTEL_* variables; values of headers are not shown."]
    return "\n".join([*lines, *_destinations(), *_variables(environment)]) + "\n"


def _destinations() -> Iterator[str]:
    for signal in Signal:
        kind = exporter(signal)
        parts = _endpoint(endpoint(signal)) if kind == "otlp" else [kind]
        yield f"# {signal}: {', '.join([*parts, *(_manner() if signal == Signal.METRICS and kind != 'none' else [])])}"


def _endpoint(place: Endpoint) -> list[str]:
    headers = ", ".join(f"{name}={MASK}" for name, _ in place.headers)
    parts = [place.name, place.protocol, "gzip" if place.gzip else "uncompressed", f"{place.timeout_s:g} s a request"]
    return [*parts, f"headers {headers}"] if headers else parts


def _manner() -> list[str]:
    metrics = MetricSettings.from_environment()
    bounds = ["exponential histograms with bounds of their own"] if metrics.exponential else []
    return [f"every {metrics.interval_s:g} s", metrics.temporality, *bounds]


def _variables(environment: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(filter(_STANDARD.fullmatch, environment)):
        if environment[name].strip():
            yield f"# {name}={_shown(name, environment[name].strip())}"


def _masked(pair: str) -> str:
    """A header's name alone.  A text without a name may be the rest of a secret that has a comma in it."""
    name, equals, _ = pair.partition("=")
    return f"{printable(name.strip())}={MASK}" if equals else MASK


def _shown(name: str, value: str) -> str:
    if name.endswith("_HEADERS"):
        return ",".join(map(_masked, value.split(",")))
    if not _PUBLIC.match(name):
        return MASK
    return printable(without_secrets(value) if name.endswith("_ENDPOINT") else value)
