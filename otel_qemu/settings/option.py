"""Where the value of a setting comes from: its flag, its environment variable, or the file of settings."""

import difflib
import logging
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from otel_qemu.errors import BadInput
from otel_qemu.settings.types import SettingType

log = logging.getLogger(__name__)

DEFAULT_FILE = Path("/etc/otel-qemu.toml")
PREFIX = "OTEL_QEMU_"

_LARGEST_FILE_BYTES = 1 << 20
_ORIGINS = "otel_qemu.settings.origins"
"""Where a click context has the file and line of each key of the file."""
# Comments and strings of several lines are passed over, since a line of theirs may look like a key.
_KEY = re.compile(
    r"""^[ \t]*\[*[ \t]*([\w-]+|"(?:\\.|[^"\\\n])*"|'[^'\n]*')[ \t]*[.=\]]|#.*|\"{3}[\s\S]*?\"{3}|'{3}[\s\S]*?'{3}""",
    re.MULTILINE,
)


def variable(key: str) -> str:
    """The environment variable of a key of the file."""
    return f"{PREFIX}{key.upper().replace('-', '_')}"


class Setting(click.Option):
    """An option whose wrong value is refused as ours are, by its name; click finds the value."""

    type: SettingType

    @property
    def key(self) -> str:
        """Its name in the file."""
        return self.opts[0].removeprefix("--")

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """The variable; one of spaces is as good as none."""
        return (super().resolve_envvar_value(ctx) or "").strip() or None

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """Read the value that click has found."""
        return self.read(ctx, value, self.opts[0])

    def read(self, ctx: click.Context, value: Any, origin: str) -> Any:
        """Read a value; raise BadInput, which names its origin."""
        try:
            return super().type_cast_value(ctx, value)
        except click.BadParameter as error:
            raise BadInput(f"{origin}: {error.message}") from None

    def elements(self, value: Any) -> Any:
        """A value of TOML as click takes it: a list, if the option may be repeated."""
        if not self.multiple or (isinstance(value, list) and all(isinstance(part, str) for part in value)):
            return value
        if isinstance(value, dict) and tuple in self.type.takes:
            return list(value.items())
        return self.type.split_envvar_value(value) if isinstance(value, str) else [value]

    def toml(self, value: Any) -> str:
        """Write its value as TOML."""
        written = [self.type.toml(part) for part in (value if self.multiple else [value])]
        return f"[{', '.join(written)}]" if self.multiple else written[0]

    def origin(self, ctx: click.Context) -> str:
        """Where its value came from: ``--one-in``, ``OTEL_QEMU_ONE_IN``, ``FILE line 3`` or ``default``."""
        origins = {
            ParameterSource.COMMANDLINE: self.opts[0],
            ParameterSource.ENVIRONMENT: str(self.envvar),
            ParameterSource.DEFAULT_MAP: ctx.meta.get(_ORIGINS, {}).get(self.key),
        }
        return origins.get(ctx.get_parameter_source(self.name) or ParameterSource.DEFAULT) or "default"


def read_file(ctx: click.Context, config: Any, path: Path) -> Path | None:
    """
    Make the file of settings click's map of defaults; the callback of ``--config``, which click calls first.

    A wrong value of the file or of a variable is refused even where another wins: it would be wrong at the next start.

    Returns:
        the path of the file, or None if there is none and none was asked for.
    """
    settings = {each.key: each for each in ctx.command.params if isinstance(each, Setting) and each is not config}
    _warn_of_mistyped_variables([str(each.envvar) for each in (*settings.values(), config)])
    asked = ctx.get_parameter_source(config.name) in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
    read = asked or path.exists()
    if read:
        _read_table(ctx, path, settings)
    for setting in settings.values():
        if (value := setting.value_from_envvar(ctx)) is not None:
            setting.read(ctx, value, str(setting.envvar))
    return path if read else None


def _read_table(ctx: click.Context, path: Path, settings: Mapping[str, Setting]) -> None:
    text = _text(path)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{path} is not TOML: {error}") from None
    lines = lines_of(text)
    origins = {key: f"{path} line {lines.get(key, '?')}" for key in table}
    for key in table:
        if key not in settings:
            raise BadInput(f"{origins[key]}: {key!r} is no setting: {_likely(key, list(settings))}")
    values = {key: settings[key].elements(value) for key, value in table.items()}
    for key, value in values.items():
        settings[key].read(ctx, value, f"{origins[key]}: {key}")
    ctx.meta[_ORIGINS] = origins
    ctx.default_map = {str(settings[key].name): value for key, value in values.items()}


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
    """The line, from 1, on which each key of a TOML document first begins; tomllib tells no lines."""
    found: dict[str, int] = {}
    line, end = 1, 0
    for match in filter(lambda match: match[1], _KEY.finditer(text)):
        line, end = line + text.count("\n", end, match.start()), match.start()
        found.setdefault(next(iter(tomllib.loads(f"{match[1]} = 0"))), line)
    return found


def _warn_of_mistyped_variables(known: Sequence[str]) -> None:
    """Other variables of our prefix may be for programs around us, and are passed over."""
    for name in sorted({name for name in os.environ if name.startswith(PREFIX)}.difference(known)):
        if close := difflib.get_close_matches(name, known, 1, 0.8):
            log.warning("%s is no setting: is %s meant?", name, close[0])


def _likely(key: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(key.lower().replace("_", "-"), known, 1)
    return f"is {close[0]!r} meant?" if close else f"one of {', '.join(known)}"


config_option = click.option(
    "--config", "file", cls=Setting, type=SettingType("FILE", "a path", (str,), Path), is_eager=True,
    envvar=variable("config"), default=str(DEFAULT_FILE), callback=read_file, show_default=True,
    help="Read settings from this TOML file. Flags and OTEL_QEMU_* variables override it.",
)  # fmt: skip
