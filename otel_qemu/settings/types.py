"""The types of settings, for click: each reads a text or a value of TOML, and shows what it read as one of these."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import click

from otel_qemu.errors import BadInput
from otel_qemu.trace.histograms import parse_bounds
from otel_qemu.trace.scsi import OPERATIONS

OFF = "off"
"""Stands for None where a setting can be switched off."""

_UNITS = (("s", Decimal(1)), ("ms", Decimal("1e-3")), ("us", Decimal("1e-6")), ("ns", Decimal("1e-9")))
_SIZES = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "B": 1, "GB": 10**9, "MB": 10**6, "kB": 10**3}


@dataclass(frozen=True)
class SettingType(click.ParamType[Any]):
    """
    What a setting may be.

    Attributes:
        name: stands for the value in help.
        allowed: in words, after "it must be".
        takes: types of TOML; a flag or variable is a str.
        read: gives the value; raises ValueError, ArithmeticError or BadInput.
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
        if isinstance(value, self.takes) and not isinstance(value, bool):
            try:
                read = self.read(value)
                if self.least is None or self.least <= read <= self.most:
                    return read
            except (ValueError, ArithmeticError, BadInput):
                pass
        raise click.BadParameter(f"{toml(value)} is not allowed: it must be {self.allowed}", ctx, param)

    def split_envvar_value(self, rv: str) -> list[str]:
        """The texts of a variable whose option may be repeated; the name is click's."""
        return [part.strip() for part in rv.split(",")]

    def toml(self, value: Any) -> str:
        """Write a value as TOML."""
        return toml(OFF if value is None else self.show(value))


def text(name: str, allowed: str, pattern: str, optional: bool = False) -> SettingType:
    """A text that matches a pattern."""

    def read(text: str) -> str:
        if not re.fullmatch(pattern, text, re.DOTALL):
            raise ValueError
        return text

    return SettingType(name, allowed, (str,), read, optional=optional)


def number(name: str, allowed: str, least: float, most: float, optional: bool = False) -> SettingType:
    """A number; a whole one is an int, and shown without decimals."""

    def read(value: str | float) -> float:
        number = float(value)
        return int(number) if number.is_integer() else number

    return SettingType(name, allowed, (str, int, float), read, least=least, most=most, optional=optional)


def duration(allowed: str, least_s: float, most_s: float, optional: bool = False) -> SettingType:
    """A duration in s: with a unit, such as 100ms, or a number of seconds."""
    takes = (str, int, float)
    return SettingType("DURATION", allowed, takes, read_duration, show_duration, least_s, most_s, optional)


def size(allowed: str, least_bytes: int) -> SettingType:
    """A number of bytes: with a unit, such as 32MiB, or without."""

    def read(value: str | int) -> int:
        if not isinstance(value, str):
            return value
        found = re.fullmatch(rf"\s*(\d{{1,18}})\s*({'|'.join(_SIZES)})\s*", value, re.ASCII)
        if not found:
            raise ValueError
        return int(found[1]) * _SIZES[found[2]]

    def show(size_bytes: int) -> str:
        unit = next(unit for unit, unit_bytes in _SIZES.items() if size_bytes % unit_bytes == 0)
        return f"{size_bytes // _SIZES[unit]}{unit}"

    return SettingType("SIZE", allowed, (str, int), read, show, least_bytes)


def bounds(allowed: str, most: float) -> SettingType:
    """At most this many ascending durations in s, or ``exponential:SCALE``."""

    def read(value: str | list[Any]) -> tuple[float, ...]:
        listed = value if isinstance(value, str) else ",".join(show_duration(read_duration(part)) for part in value)
        bounds_s = parse_bounds(listed)
        if len(bounds_s) > most:
            raise ValueError
        return bounds_s

    return SettingType("DURATIONS", allowed, (str, list), read, lambda bounds_s: list(map(show_duration, bounds_s)))


def slow_operation(allowed: str, threshold: SettingType) -> SettingType:
    """A SCSI operation and its threshold in s: ``OPERATION=DURATION``, or the two in a tuple."""

    def read(value: str | tuple[str, Any]) -> tuple[str, float]:
        name, duration = map(str.strip, value.split("=", 1)) if isinstance(value, str) else value
        if name.upper() not in OPERATIONS:
            raise click.BadParameter(f"{toml(name)} is no SCSI operation: one of {', '.join(OPERATIONS)}")
        try:
            return name.upper(), threshold.convert(duration, None, None)
        except click.BadParameter as error:
            raise click.BadParameter(f"{name.upper()}: {error.message}") from None

    def show(pair: tuple[str, float]) -> str:
        return f"{pair[0]}={show_duration(pair[1])}"

    return SettingType("OPERATION=DURATION", allowed, (str, tuple), read, show)


def read_duration(value: Any) -> float:
    """In s.  An element of a list may have any type."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, str):
        raise ValueError
    if value.strip() in ("0", "0s"):
        return 0.0
    (duration_s,) = parse_bounds(value)
    return duration_s


def show_duration(duration_s: float) -> str:
    """In the largest unit of which it is one or more, such as 2.5ms; reads as the same number."""
    exact = Decimal(repr(float(duration_s)))
    unit, unit_s = next((each for each in _UNITS if exact >= each[1]), _UNITS[-1])
    # normalize() alone would say 1E+2.
    return f"{(exact / unit_s).normalize():f}{unit}" if exact else "0s"


def toml(value: Any) -> str:
    """Write a text or a plain value as TOML, on one printable line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{toml(key)} = {toml(part)}' for key, part in value.items())} }}"
    return f'"{"".join(map(_escaped, value))}"' if isinstance(value, str) else str(value)


def _escaped(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    # A lone surrogate stands for a byte that is not UTF-8; TOML has no way to write it.
    number = 0xFFFD if 0xD800 <= ord(char) < 0xE000 else ord(char)
    return char if char.isprintable() else f"\\U{number:08x}"
