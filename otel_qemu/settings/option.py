# SPDX-License-Identifier: Apache-2.0
"""An option of click that is also a variable and a key of the file; click finds its value."""

import difflib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from otel_qemu.errors import BadInput
from otel_qemu.settings.file import entries
from otel_qemu.settings.types import OFF, SettingType, toml

log = logging.getLogger(__name__)

PREFIX = "OTEL_QEMU_"

_ORIGINS = "otel_qemu.settings.origins"
"""Where a context of click has the origin of each key of the file."""


def variable(key: str) -> str:
    """The environment variable of a key."""
    return f"{PREFIX}{key.upper().replace('-', '_')}"


class Setting(click.Option):
    """An option of one of our types.  A wrong value is refused by the name of where it came from."""

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
        shown = [OFF if part is None else self.type.show(part) for part in (value if self.multiple else [value])]
        return toml(shown if self.multiple else shown[0])

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
    found = path if asked or path.exists() else None
    if found:
        _become_defaults(ctx, entries(found), settings)
    for setting in settings.values():
        if (value := setting.value_from_envvar(ctx)) is not None:
            setting.read(ctx, value, str(setting.envvar))
    return found


def _become_defaults(ctx: click.Context, found: Mapping[str, tuple[Any, str]], settings: Mapping[str, Setting]) -> None:
    ctx.default_map, ctx.meta[_ORIGINS] = {}, {}
    for key, (value, origin) in found.items():
        if key not in settings:
            raise BadInput(f"{origin}: {key!r} is no setting: {_likely(key, list(settings))}")
        elements = settings[key].elements(value)
        settings[key].read(ctx, elements, f"{origin}: {key}")
        ctx.default_map[settings[key].name], ctx.meta[_ORIGINS][key] = elements, origin


def _warn_of_mistyped_variables(known: Sequence[str]) -> None:
    """Other variables of our prefix may be for programs around us, and are passed over."""
    for name in sorted({name for name in os.environ if name.startswith(PREFIX)}.difference(known)):
        if close := difflib.get_close_matches(name, known, 1, 0.8):
            log.warning("%s is no setting: is %s meant?", name, close[0])


def _likely(key: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(key.lower().replace("_", "-"), known, 1)
    return f"is {close[0]!r} meant?" if close else f"one of {', '.join(known)}"
