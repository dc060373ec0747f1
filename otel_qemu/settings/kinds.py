"""
Kinds of settings: each reads one text or one TOML value, says what it takes, and writes TOML again.

Reading raises ValueError with what is wrong and what is allowed, for `sources` to put a name in front of.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol

from otel_qemu.errors import BadInput
from otel_qemu.trace.histograms import parse_bounds
from otel_qemu.trace.scsi import OPERATIONS

OFF = "off"

_UNITS = (("s", Decimal(1)), ("ms", Decimal("1e-3")), ("us", Decimal("1e-6")), ("ns", Decimal("1e-9")))
_SIZES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SIZE = re.compile(r"(\d{1,18})\s*([kKMG]i?B|B)", re.ASCII)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


class Kind(Protocol):
    """
    What a setting may be.

    Attributes:
        metavar: stands for the value in help.
        allowed: in words, after "it must be".
        repeatable: whether its flag may be given more than once.
    """

    @property
    def metavar(self) -> str: ...  # noqa: D102

    @property
    def allowed(self) -> str: ...  # noqa: D102

    @property
    def repeatable(self) -> bool: ...  # noqa: D102

    def read(self, value: Any) -> Any:
        """A text, as flags and variables have it, or a value of TOML, or the texts of a repeatable flag."""

    def show(self, value: Any) -> str:
        """What was read, as TOML."""


@dataclass(frozen=True)
class _Scalar:
    """One value, of a flag that is given once."""

    metavar: str
    allowed: str
    repeatable: bool = field(default=False, init=False)

    def read(self, value: Any) -> Any:
        """What it says; ValueError if it says nothing that is allowed."""
        try:
            return self._read(value)
        except (ValueError, ArithmeticError, BadInput):
            raise ValueError(f"{show_plain(value)} is not allowed: it must be {self.allowed}") from None

    def _read(self, value: Any) -> Any:
        raise NotImplementedError


@dataclass(frozen=True)
class Count(_Scalar):
    """A whole number, from 0 to `most`."""

    most: int

    def _read(self, value: Any) -> int:
        count = _at_least(0, int(value) if isinstance(value, str) else _whole(value))
        if count > self.most:
            raise ValueError
        return count

    def show(self, value: int) -> str:
        """Digits."""
        return str(value)


@dataclass(frozen=True)
class Share(_Scalar):
    """A part of a whole, 0 to 1."""

    def _read(self, value: Any) -> float:
        share = _number(value)
        if not 0 <= share <= 1:
            raise ValueError
        return share

    def show(self, value: float) -> str:
        """A float."""
        return repr(float(value))


@dataclass(frozen=True)
class Rate(_Scalar):
    """So many a second, above 0; None is off."""

    def _read(self, value: Any) -> float | None:
        if value == OFF:
            return None
        rate = _number(value)
        if not 0 < rate < math.inf:
            raise ValueError
        return rate

    def show(self, value: float | None) -> str:
        """A number or off."""
        return show_plain(OFF) if value is None else repr(int(value) if value == int(value) else value)


@dataclass(frozen=True)
class Duration(_Scalar):
    """A duration in s within bounds; None, where that is allowed, is off."""

    least_s: float = 0.0
    most_s: float = math.inf
    optional: bool = False

    def _read(self, value: Any) -> float | None:
        if self.optional and value == OFF:
            return None
        duration_s = seconds(value)
        if not self.least_s <= duration_s <= self.most_s:
            raise ValueError
        return duration_s

    def show(self, value: float | None) -> str:
        """With its unit."""
        return show_plain(OFF if value is None else show_duration(value))


@dataclass(frozen=True)
class Size(_Scalar):
    """A number of bytes, from `least_bytes` on."""

    least_bytes: int = 1

    def _read(self, value: Any) -> int:
        if isinstance(value, str):
            found = _SIZE.fullmatch(value.strip())
            if not found or found[2] not in _SIZES:
                raise ValueError
            value = int(found[1]) * _SIZES[found[2]]
        return _at_least(self.least_bytes, _whole(value))

    def show(self, value: int) -> str:
        """In the largest binary unit that gives a whole number."""
        unit = next(unit for unit in ("GiB", "MiB", "KiB", "B") if value % _SIZES[unit] == 0)
        return show_plain(f"{value // _SIZES[unit]}{unit}")


@dataclass(frozen=True)
class Folder(_Scalar):
    """An absolute path; None is off."""

    def _read(self, value: Any) -> str | None:
        if value == OFF:
            return None
        if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
            raise ValueError
        return value

    def show(self, value: str | None) -> str:
        """The path or off."""
        return show_plain(OFF if value is None else value)


@dataclass(frozen=True)
class Bounds(_Scalar):
    """Ascending durations in s, at most so many, or ``exponential:SCALE``, which stands for some."""

    most: float = math.inf

    def _read(self, value: Any) -> tuple[float, ...]:
        if not isinstance(value, Sequence):
            raise ValueError
        text = value if isinstance(value, str) else ",".join(show_duration(seconds(part)) for part in value)
        bounds_s = parse_bounds(text)
        if len(bounds_s) > self.most:
            raise ValueError
        return bounds_s

    def show(self, value: tuple[float, ...]) -> str:
        """A list."""
        return f"[{', '.join(show_plain(show_duration(bound_s)) for bound_s in value)}]"


@dataclass(frozen=True)
class Names:
    """Names, none of them empty; as one text, separated by commas."""

    metavar: str
    allowed: str
    repeatable: bool = True

    def read(self, value: Any) -> tuple[str, ...]:
        """The names; ValueError if one is none."""
        parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
        if not isinstance(parts, Sequence) or not all(isinstance(part, str) and part for part in parts):
            raise ValueError(f"{show_plain(value)} is not allowed: it must be {self.allowed}")
        return tuple(parts)

    def show(self, value: tuple[str, ...]) -> str:
        """A list."""
        return f"[{', '.join(map(show_plain, value))}]"


@dataclass(frozen=True)
class DurationByOperation:
    """A duration in s for some SCSI operations: a table, or ``OPERATION=DURATION``, separated by commas."""

    metavar: str
    allowed: str
    duration: Duration
    repeatable: bool = True

    def read(self, value: Any) -> tuple[tuple[str, float], ...]:
        """The pairs; ValueError if an operation is none, or a duration."""
        parts = value.split(",") if isinstance(value, str) else value
        if isinstance(parts, Sequence):
            parts = dict(_pair(part) for part in parts)
        if not isinstance(parts, Mapping):
            raise ValueError(f"{show_plain(value)} is not allowed: it must be {self.allowed}")
        return tuple((_operation(name), self._duration_s(name, value)) for name, value in parts.items())

    def _duration_s(self, name: str, value: Any) -> float:
        try:
            duration_s: float = self.duration.read(value)
        except ValueError as error:
            raise ValueError(f"{_operation(name)}: {error}") from None
        return duration_s

    def show(self, value: tuple[tuple[str, float], ...]) -> str:
        """An inline table."""
        inside = ", ".join(f"{name} = {show_plain(show_duration(slow_s))}" for name, slow_s in value)
        return f"{{ {inside} }}" if inside else "{}"


def seconds(value: Any) -> float:
    """A duration such as 100ms, in s; a number is in s already."""
    if not isinstance(value, str):
        return _number(value)
    if value.strip() in ("0", "0s"):
        return 0.0
    durations_s = parse_bounds(value)
    if len(durations_s) != 1:
        raise ValueError
    return durations_s[0]


def show_duration(duration_s: float) -> str:
    """In the largest unit of which it is one or more, such as 2.5ms; reads back as the same number."""
    exact = Decimal(repr(float(duration_s)))
    unit, unit_s = next(((unit, unit_s) for unit, unit_s in _UNITS if exact >= unit_s), ("ns", _UNITS[-1][1]))
    # normalize() alone would say 1E+2.
    return f"{(exact / unit_s).normalize():f}{unit}" if exact else "0s"


def show_plain(value: Any) -> str:
    """A value that came out of TOML or a text, as TOML; a text with all that is not printable escaped."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_key(str(key))} = {show_plain(part)}' for key, part in value.items())} }}"
    if isinstance(value, str):
        return f'"{"".join(map(_escaped, value))}"'
    if isinstance(value, Sequence):
        return f"[{', '.join(map(show_plain, value))}]"
    return str(value)


def _escaped(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    # A lone surrogate stands for a byte that is not UTF-8; TOML has no way to write it.
    number = 0xFFFD if 0xD800 <= ord(char) < 0xE000 else ord(char)
    return char if char.isprintable() else f"\\U{number:08x}"


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else show_plain(name)


def _pair(part: Any) -> tuple[str, str]:
    if not isinstance(part, str) or "=" not in part:
        raise ValueError(f"{show_plain(part)} is not allowed: it must be an operation and a duration, like WRITE=20ms")
    name, _, duration = part.partition("=")
    return name.strip(), duration.strip()


def _operation(name: str) -> str:
    if name.upper() not in OPERATIONS:
        raise ValueError(f"{show_plain(name)} is no SCSI operation: one of {', '.join(OPERATIONS)}")
    return name.upper()


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError
    return float(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError
    return value


def _at_least(least: int, value: int) -> int:
    if value < least:
        raise ValueError
    return value
