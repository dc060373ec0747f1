# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share, as decorators."""

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from otel_qemu.policy import KeepPolicy
from otel_qemu.settings import SETTINGS, Settings, types
from otel_qemu.settings.option import Setting, read_file, variable

Command = Callable[..., Any]

ANY_BOUNDS = replace(
    SETTINGS["bounds"].type,
    allowed="ascending durations, like 1ms,5ms,10ms, or exponential:SCALE",
    read=types.read_bounds,
)
"""Bounds of histograms that are made of records, where the kernel sets no limit."""

_FILE = types.SettingType("FILE", "a path", (str,), Path)
_PID = types.SettingType("PID", "the id of a process", (str, int), int, least=1)
_SECONDS = types.SettingType(
    "SECONDS", "a number of seconds above 0", (str, int, float), float, least=sys.float_info.min
)
COUNT = types.SettingType("N", "a whole number from 1 on", (str, int), int, least=1)
"""How many of something."""

by_pid = click.option(
    "--pid", "pids", type=_PID, multiple=True, show_default="all",
    help="Select the QEMU process with this id. May be repeated, and combined with --domain.",
)  # fmt: skip
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
timed = click.option("--duration", "duration_s", type=_SECONDS, show_default="until interrupted",
                     help="Stop after this many seconds.")  # fmt: skip
audited = click.option("--audit", is_flag=True,
                       help="Also follow each request's exact chain of pointers, and report how many joins agree with "
                            "it. This slows guests down.")  # fmt: skip


def setting_option(key: str, **changes: Any) -> Callable[[Command], Command]:
    """Give a command the option of a setting; its variable and the file of settings are for `run` alone."""
    like = SETTINGS[key]
    described = {name: getattr(like, name) for name in ("type", "default", "multiple", "show_default", "help")}
    return click.option(f"--{key}", like.name, cls=Setting, **{**described, **changes})


def selected(command: Command) -> Command:
    """Give a command the options that select guests."""
    return setting_option("domain")(by_pid(command))


def kept(command: Command) -> Command:
    """Give a command the options that say which traces to keep, as `policy`.  By default it keeps all."""

    @setting_option("one-in", default="1")
    @setting_option("slow", default="off")
    @setting_option("slow-operation")
    @functools.wraps(command)
    def with_policy(one_in: int, slow_s: float | None, slow_by_operation_s: Any, **others: Any) -> Any:
        return command(policy=KeepPolicy(one_in, slow_s, slow_by_operation_s), **others)

    return with_policy


def configured(command: Command) -> Command:
    """Give a command every setting, as `settings`, and the options --config and --print-config."""

    @click.option(
        "--config", "file", cls=Setting, type=_FILE, is_eager=True, envvar=variable("config"), callback=read_file,
        default="/etc/otel-qemu.toml", show_default=True,
        help="Read settings from this TOML file. Flags and OTEL_QEMU_* variables override it.",
    )  # fmt: skip
    @click.option(
        "--print-config", is_flag=True, help="Print the settings in force and where each came from, and exit."
    )
    @functools.wraps(command)
    def with_settings(file: Path | None, print_config: bool, **values: Any) -> Any:
        ctx = click.get_current_context()
        settings = Settings(**{str(each.name): values.pop(str(each.name)) for each in SETTINGS.values()})
        if print_config:
            from otel_qemu.views.configuration import configuration_text  # with protobuf, which `hist` has no use for

            origins = {key: each.origin(ctx) for key, each in SETTINGS.items()}
            click.echo(configuration_text(settings, origins, file, os.environ), nl=False)
            return None
        return command(settings=settings, **values)

    decorated: Command = with_settings
    for key in reversed(SETTINGS):
        decorated = setting_option(key, envvar=SETTINGS[key].envvar)(decorated)
    return decorated
