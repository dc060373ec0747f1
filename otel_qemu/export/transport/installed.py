# SPDX-License-Identifier: Apache-2.0
"""
Exporters that are installed beside us: Python packages that offer one of OpenTelemetry's entry points.

Source: OpenTelemetry specification, configuration/sdk-environment-variables.md, "Exporter Selection"; the groups are
those of ``opentelemetry-instrument``.
"""

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from otel_qemu.errors import BadInput
from otel_qemu.export.text import printable
from otel_qemu.export.transport import environment
from otel_qemu.export.transport.endpoint import Endpoint, Signal, endpoint

_Exporter = TypeVar("_Exporter")

OURS = ("otlp", "console", "none")
"""Exporters that need no package: these names are never looked for."""


def exporter(signal: Signal) -> str:
    """
    ``otlp``, ``console``, ``none`` or the name of one that is installed.

    Raises:
        BadInput: a variable has a value that it must not have.
    """
    if environment.choice("false", ("true", "false"), environment.DISABLED) == "true":
        return "none"
    variable, name = environment.setting(_variable(signal))
    if not name or name.lower() in OURS:
        return name.lower() or "otlp"
    found = _installed(signal)
    if name not in found:
        allowed = ", ".join([*OURS, *sorted(found.keys() - set(OURS))])
        raise BadInput(f"{variable} is {printable(name)!r}: it must be one of {allowed}, or a package must offer it")
    return name


def choose(
    signal: Signal,
    otlp: Callable[[Endpoint], _Exporter],
    console: Callable[[], _Exporter],
    of_package: Callable[[str], _Exporter],
) -> tuple[_Exporter | None, str]:
    """
    The exporter that the environment asks for, OTLP over gRPC to this machine by default.

    Args:
        signal: that it exports.
        otlp, console, of_package: make one: to an endpoint, to standard output, by the name of one that is installed.

    Returns:
        The exporter, None where all is to be thrown away; and its endpoint as a person knows it, without the password
        that a URL may hold.

    Raises:
        BadInput: a variable has a value that it must not have, or an exporter cannot be made.
    """
    name = exporter(signal)
    if name == "otlp":
        place = endpoint(signal)
        return otlp(place), place.name
    if name in OURS:
        return console() if name == "console" else None, name
    return of_package(name), name


def load(signal: Signal, name: str, kind: type[_Exporter]) -> _Exporter:
    """
    The exporter of this name, made as its package makes it by default.

    Raises:
        BadInput: the package cannot make it, or makes something else.
    """
    try:
        made = _installed(signal)[name].load()()
        reason = f"makes no exporter of {signal}, choose another one"
    except (Exception, SystemExit) as error:  # the package's, whatever it is
        made, reason = None, printable(f"cannot make it: {type(error).__name__}: {error}")
    if isinstance(made, kind):
        return made
    raise BadInput(f"{_variable(signal)} is {name!r}: its package {reason}")


def _variable(signal: Signal) -> str:
    return f"OTEL_{signal.upper()}_EXPORTER"


def _installed(signal: Signal) -> dict[str, EntryPoint]:
    return {each.name: each for each in entry_points(group=f"opentelemetry_{signal}_exporter")}
