"""What the commands take: decorators that add options to a command, and hand it what was typed as it was meant."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from otel_qemu.probe.keeping import Keeping
from otel_qemu.settings import DEFAULT_FILE, SETTINGS, Setting, print_config, read_settings
from otel_qemu.settings.kinds import Bounds, Kind

Command = Callable[..., Any]

KERNEL_BOUNDS: Kind = SETTINGS["bounds"].kind
ANY_BOUNDS: Kind = Bounds("DURATIONS", "ascending durations, like 1ms,5ms,10ms, or exponential:SCALE")
"""Of histograms that are made of records."""

by_pid = click.option("--pid", "pids", type=click.IntRange(1), multiple=True, help="A QEMU process id; repeatable.")
as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
timed = click.option("--duration", "duration_s", type=click.FloatRange(0, min_open=True), metavar="S",
                     help="Stop after so many seconds.")  # fmt: skip
audited = click.option("--audit", is_flag=True,
                       help="Attach the exact pointer chain as well, and report how many joins agree with it; "
                            "guests pay for it.")  # fmt: skip


def selected(command: Command) -> Command:
    """The options that choose guests, the same for every command that traces."""
    help = "A libvirt domain by name or UUID; repeatable."
    return click.option("--domain", "domains", multiple=True, help=help)(by_pid(command))


def bounded(kind: Kind, help: str) -> Callable[[Command], Command]:
    """Upper bounds of histograms' bins; `histograms.DEFAULT_BOUNDS_S` where none are given."""
    default = SETTINGS["bounds"].default_text
    return click.option("--bounds", "bounds_s", metavar=kind.metavar, default=default, callback=_reader(kind),
                        help=help)  # fmt: skip


def kept(command: Command) -> Command:
    """Which traces to keep, all of them unless told otherwise; every one is counted."""

    @_read_at_once("one-in", "1")
    @_read_at_once("slow", "off")
    @_read_at_once("slow-operation", None)
    @functools.wraps(command)
    def with_keeping(one_in: int, slow_s: float | None, slow_by_operation_s: Any, **others: Any) -> Any:
        return command(keeping=Keeping(one_in, slow_s, slow_by_operation_s), **others)

    return with_keeping


def configured(command: Command) -> Command:
    """A flag for every setting, the file that holds the others, and a way to see what holds."""

    @functools.wraps(command)
    def with_settings(config: Path | None, print_only: bool, **others: Any) -> Any:
        flags = {name: others.pop(setting.field) for name, setting in SETTINGS.items()}
        effective = read_settings(flags, os.environ, config)
        if print_only:
            click.echo(print_config(effective, os.environ), nl=False)
            return None
        return command(settings=effective.settings, **others)

    decorated: Command = with_settings
    for setting in reversed(SETTINGS.values()):
        decorated = _option(setting, setting.default_text)(decorated)
    decorated = click.option("--print-config", "print_only", is_flag=True, help="Print the settings that hold.")(
        decorated
    )
    return click.option(
        "--config", type=click.Path(path_type=Path), metavar="FILE", help=f"A file of settings, not {DEFAULT_FILE}."
    )(decorated)


def _read_at_once(name: str, default: str | None) -> Callable[[Command], Command]:
    """A setting of a command that has no file, with a default of its own."""
    setting = SETTINGS[name]
    return _option(setting, default or "none", default=default, callback=_reader(setting.kind))


def _option(setting: Setting, default_text: str, **others: Any) -> Callable[[Command], Command]:
    """A setting's flag; as it was typed, unless a callback reads it."""
    several = "; repeatable" if setting.kind.repeatable else ""
    return click.option(
        f"--{setting.name}", setting.field, type=str, metavar=setting.kind.metavar, multiple=setting.kind.repeatable,
        help=f"{setting.help}  [default: {default_text}{several}]", **others,
    )  # fmt: skip


def _reader(kind: Kind) -> Callable[[click.Context, click.Parameter, Any], Any]:
    def read(_context: click.Context, _option: click.Parameter, value: Any) -> Any:
        try:
            return kind.read(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return read
