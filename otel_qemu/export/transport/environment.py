# SPDX-License-Identifier: Apache-2.0
"""
Values of the standard ``OTEL_*`` variables.

An empty variable is an unset one, as the specification says.
"""

import os
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import unquote

from otel_qemu.errors import BadInput
from otel_qemu.export.text import printable

_T = TypeVar("_T", int, float)
_Parsed = TypeVar("_Parsed")

DISABLED = "OTEL_SDK_DISABLED"
RESOURCE_ATTRIBUTES = "OTEL_RESOURCE_ATTRIBUTES"
SERVICE_NAME = "OTEL_SERVICE_NAME"
QUEUE_SPANS = "OTEL_BSP_MAX_QUEUE_SIZE"
REQUEST_SPANS = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"
DELAY_MS = "OTEL_BSP_SCHEDULE_DELAY"
EXPORT_TIMEOUT_MS = "OTEL_BSP_EXPORT_TIMEOUT"


def setting(*variables: str) -> tuple[str, str]:
    """The first of these variables that is set, and its value; without one, the last variable and an empty text."""
    for variable in variables:
        if value := os.environ.get(variable, "").strip():
            return variable, value
    return variables[-1], ""


def choice(default: str, allowed: tuple[str, ...], *variables: str) -> str:
    """
    One of a few values.

    Raises:
        BadInput: a variable has a value that is not allowed.
    """
    variable, value = setting(*variables)
    if value and value.lower() not in allowed:
        raise BadInput(f"{variable} is {value!r}: it must be one of {', '.join(allowed)}")
    return value.lower() or default


def number(default: _T, least: _T, variable: str, kind: Callable[[str], _T]) -> _T:
    """
    A number of a kind, `int` or `float`, that is `least` or more; the default where the variable is not set.

    Raises:
        BadInput: the value is not a number of this kind, or less than the least.
    """
    _, text = setting(variable)
    try:
        value = kind(text) if text else default
    except ValueError:
        value = least - 1
    if not least <= value < float("inf"):
        raise BadInput(f"{variable} is {text!r}: it must be a number, {least} or more")
    return value


def parsed(parse: Callable[[str], _Parsed], default: _Parsed, *variables: str) -> _Parsed:
    """
    The value of the first of these variables that is set; `parse` reads it, and raises ValueError with what is wrong.

    Raises:
        BadInput: a variable has a value that it must not have.
    """
    variable, text = setting(*variables)
    try:
        return parse(text) if text else default
    except ValueError as error:
        raise BadInput(f"{variable}: {printable(str(error))}") from None


def pairs(variable: str) -> tuple[tuple[str, str], ...]:
    """
    ``key=value,key=value``, values percent-encoded (W3C Baggage, without properties).

    Raises:
        BadInput: a part of the value is not a pair.
    """
    return parsed(pairs_of, (), variable)


def pairs_of(text: str) -> tuple[tuple[str, str], ...]:
    """The same of a text; ValueError gives the number of a wrong part but not its text, which may be a secret."""
    parts = [part.partition("=") for part in text.split(",") if part.strip()]
    for number, (key, equals, _) in enumerate(parts, 1):
        if not equals or not key.strip():
            raise ValueError(f"part {number} is not a pair like name=value")
    return tuple((key.strip(), unquote(value.strip())) for key, _, value in parts)
