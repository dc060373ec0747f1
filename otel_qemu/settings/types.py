# SPDX-License-Identifier: Apache-2.0
"""The types of settings, for click: each reads a text or a value of TOML, and shows what it read as one of these."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import click

from otel_qemu.trace.exponential import exponential_bounds
from otel_qemu.trace.histograms import in_ns
from otel_qemu.trace.scsi import OPERATIONS

OFF = "off"
"""Stands for None where a setting can be switched off."""

NUMBER = (str, int, float)
"""Types of TOML that a number may have."""

_UNITS = {"s": Decimal(1), "ms": Decimal("1e-3"), "us": Decimal("1e-6"), "ns": Decimal("1e-9")}
_DURATION = re.compile(r"((?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d{1,2})?)\s*([mnuµμ]?s|)", re.ASCII | re.IGNORECASE)
_SIZES = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "B": 1, "GB": 10**9, "MB": 10**6, "kB": 10**3}


@dataclass(frozen=True)
class SettingType(click.ParamType[Any]):
    """
    What a setting may be.

    Attributes:
        name: stands for the value in help.
        allowed: in words, after "it must be".
        takes: types of TOML; a flag or variable is a str.
        read: gives the value of one that is not empty; raises ValueError or ArithmeticError.
        show: gives what reads as a value, in a type of TOML.
        least, most: of a number.
        optional: whether ``off`` is a value.
    """

    name: str
    allowed: str
    takes: tuple[type, ...]
    read: Callable[[Any], Any]
    show: Callable[[Any], Any] = lambda value: value
    least: float | None = None
    most: float = float("inf")
    optional: bool = False

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read a value; raise click.BadParameter, which says what is allowed."""
        if self.optional and value == OFF:
            return None
        # In TOML true is no number.
        if isinstance(value, self.takes) and not isinstance(value, bool) and value not in ("", []):
            try:
                read = self.read(value)
                if self.least is None or self.least <= read <= self.most:
                    return read
            except (ValueError, ArithmeticError):
                pass
        raise click.BadParameter(f"{toml(value)} is not allowed: it must be {self.allowed}", ctx, param)

    def split_envvar_value(self, rv: str) -> list[str]:
        """The texts of a variable whose option may be repeated; the name is click's."""
        return [part.strip() for part in rv.split(",")]


def read_duration(value: Any) -> float:
    """
    A duration in s, of a text such as 100ms, or of a number of seconds.

    Raises:
        ValueError: it is neither; an element of a list may have any type.
    """
    if isinstance(value, str) and (found := _DURATION.fullmatch(value.strip())):
        unit = re.sub("[µμ]", "u", found[2].lower()) or "s"
        return float(Decimal(found[1]) * _UNITS[unit])  # in Decimal, so that 3us and 0.000003 are the same number
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{value!r} is not a duration")
    return float(value)


def show_duration(duration_s: float) -> str:
    """In the largest unit of which it is one or more, such as 2.5ms; reads as the same number."""
    exact = Decimal(repr(float(duration_s)))
    unit = next((unit for unit, unit_s in _UNITS.items() if exact >= unit_s), "ns")
    # normalize() alone would say 1E+2.
    return f"{(exact / _UNITS[unit]).normalize():f}{unit}" if exact else "0s"


def duration(allowed: str, least_s: float = 1e-9, most_s: float = 9e9, optional: bool = False) -> SettingType:
    """The type of a duration in s: by default from one ns to what 64 bits of ns hold."""
    return SettingType("DURATION", allowed, NUMBER, read_duration, show_duration, least_s, most_s, optional)


_THRESHOLD = duration("a duration like 20ms")


def read_number(value: str | float) -> float:
    """A number; a whole one is an int, and shown without decimals."""
    number = float(value)
    return int(number) if number.is_integer() else number


def read_size(value: str | int) -> int:
    """A number of bytes: with a unit, such as 32MiB, or without.  Raises ValueError if it is neither."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(rf"\s*(\d{{1,18}})\s*({'|'.join(_SIZES)})\s*", value, re.ASCII)
    if not found:
        raise ValueError(f"{value!r} is not a size")
    return int(found[1]) * _SIZES[found[2]]


def show_size(size_bytes: int) -> str:
    """In the largest unit of which it is a multiple."""
    unit = next(unit for unit, unit_bytes in _SIZES.items() if size_bytes % unit_bytes == 0)
    return f"{size_bytes // _SIZES[unit]}{unit}"


def read_bounds(value: str | list[Any], most: float = float("inf")) -> tuple[float, ...]:
    """
    Upper bounds of buckets in s: a list of durations, a text such as ``1ms,5ms``, or ``exponential:SCALE``.

    Raises:
        ValueError: there are none, or more than `most`; they do not ascend; or one is not a duration of 1 ns or more.
    """
    if isinstance(value, str) and value.strip().startswith("exponential:"):
        bounds_s = exponential_bounds(value.strip().removeprefix("exponential:"))
    else:
        bounds_s = tuple(map(read_duration, value.split(",") if isinstance(value, str) else value))
    if len(in_ns(bounds_s)) > most:
        raise ValueError(f"there are more than {most} bounds")
    return bounds_s


def show_bounds(bounds_s: tuple[float, ...]) -> list[str]:
    """As a list of durations."""
    return list(map(show_duration, bounds_s))


def read_slow_operation(value: str | tuple[str, Any]) -> tuple[str, float]:
    """A SCSI operation and its threshold in s: ``OPERATION=DURATION``, or the two in a tuple."""
    name, threshold = map(str.strip, value.split("=", 1)) if isinstance(value, str) else value
    if name.upper() not in OPERATIONS:
        raise click.BadParameter(f"{toml(name)} is no SCSI operation: one of {', '.join(OPERATIONS)}")
    try:
        return name.upper(), _THRESHOLD.convert(threshold, None, None)
    except click.BadParameter as error:
        raise click.BadParameter(f"{name.upper()}: {error.message}") from None


def show_slow_operation(pair: tuple[str, float]) -> str:
    """As ``OPERATION=DURATION``."""
    return f"{pair[0]}={show_duration(pair[1])}"


def toml(value: Any) -> str:
    """Write a text or a plain value as TOML, on one printable line."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{toml(key)} = {toml(part)}' for key, part in value.items())} }}"
    if not isinstance(value, str):
        return str(value).lower()
    # A lone surrogate stands for a byte that is not UTF-8; neither TOML nor JSON has a way to write it.
    quoted = json.dumps(value.encode(errors="replace").decode(), ensure_ascii=False)
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in quoted)
