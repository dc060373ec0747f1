"""Settings out of flags, environment and file, in this order; each remembers where it came from."""

import difflib
import logging
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otel_qemu.errors import BadInput
from otel_qemu.settings.table import SETTINGS, Setting, Settings

log = logging.getLogger(__name__)

DEFAULT_FILE = Path("/etc/otel-qemu.toml")
FILE_VARIABLE = "OTEL_QEMU_CONFIG"
PREFIX = "OTEL_QEMU_"
_LARGEST_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class Effective:
    """
    The settings that hold.

    Attributes:
        settings: their values.
        origins: by name, where each came from: ``--one-in``, ``OTEL_QEMU_ONE_IN``, ``FILE line 3`` or ``default``.
        file: the one that was read, if any.
    """

    settings: Settings
    origins: Mapping[str, str]
    file: Path | None


def read_settings(
    flags: Mapping[str, Any], environment: Mapping[str, str], file: Path | None = None, default: Path = DEFAULT_FILE
) -> Effective:
    """
    Put the settings together.

    Args:
        flags: by name, texts of those that were given; of repeatable ones, tuples of texts.
        environment: of the process.
        file: one that was asked for, and must be there.
        default: read if it is there and no other is asked for.

    Raises:
        BadInput: a setting is not what it may be, or is none; it says where, and what is allowed.
    """
    chosen = _chosen_file(file, environment, default)
    in_file = dict(_of_file(chosen)) if chosen else {}
    _warn_of_strangers(environment)
    values, origins = {}, {}
    for name, setting in SETTINGS.items():
        found = _first(setting, flags, environment, in_file)
        values[setting.field], origins[name] = (setting.default, "default") if found is None else found
    return Effective(Settings(**values), origins, chosen)


def _first(
    setting: Setting, flags: Mapping[str, Any], environment: Mapping[str, str], in_file: Mapping[str, tuple[Any, str]]
) -> tuple[Any, str] | None:
    """A file's value is read, and refused, even where another wins: it would be wrong at the next start."""
    found = None
    if setting.name in in_file:
        found = in_file[setting.name]
    if value := environment.get(setting.variable, "").strip():
        found = _read(setting, value, setting.variable), setting.variable
    if (given := flags.get(setting.name)) not in (None, ()):
        found = _read(setting, given, f"--{setting.name}"), f"--{setting.name}"
    return found


def _read(setting: Setting, value: Any, origin: str) -> Any:
    try:
        return setting.kind.read(value)
    except ValueError as error:
        raise BadInput(f"{origin}: {error}") from None


def _chosen_file(file: Path | None, environment: Mapping[str, str], default: Path) -> Path | None:
    if named := file or environment.get(FILE_VARIABLE, "").strip():
        return Path(named)
    return default if default.exists() else None


def _of_file(path: Path) -> Iterator[tuple[str, tuple[Any, str]]]:
    """Name, value and origin of each setting in a file."""
    text = _text(path)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{path} is not TOML: {error}") from None
    lines = lines_of(text)
    for name, value in table.items():
        origin = f"{path} line {lines[name]}"
        if name not in SETTINGS:
            raise BadInput(f"{origin}: {name!r} is no setting: {_likely(name, list(SETTINGS))}")
        yield name, (_read(SETTINGS[name], value, f"{origin}: {name}"), origin)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST_FILE_BYTES:
            raise BadInput(f"{path} is larger than a file of settings: give --config another")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}; it must be a file of settings") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path} is not TOML: it is not UTF-8") from None


def lines_of(text: str) -> dict[str, int]:
    """
    The line on which each top-level key of a TOML document begins, from 1.

    tomllib tells no positions, so line after line is parsed, together with those that follow where its value goes on.
    """
    lines = [f"{line}\n" for line in text.split("\n")]  # TOML knows no other ends, unlike splitlines()
    found: dict[str, int] = {}
    begin = 0
    for end in range(1, len(lines) + 1):
        try:
            table = tomllib.loads("".join(lines[begin:end]))
        except tomllib.TOMLDecodeError:
            continue  # it ends within a value
        for name in table:
            found.setdefault(name, begin + 1)  # within tables, which come last, names may be there again
        begin = end
    return found


def _warn_of_strangers(environment: Mapping[str, str]) -> None:
    """A variable that looks like a mistyped setting; others of that prefix are for programs around us."""
    known = [setting.variable for setting in SETTINGS.values()]
    strangers = {name for name in environment if name.startswith(PREFIX)} - {*known, FILE_VARIABLE}
    for name in sorted(strangers):
        if close := difflib.get_close_matches(name, known, 1, 0.8):
            log.warning("%s is no setting: is %s meant?", name, close[0])


def _likely(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name.lower().replace("_", "-"), known, 1)
    return f"is {close[0]!r} meant?" if close else f"one of {', '.join(known)}"
