# SPDX-License-Identifier: Apache-2.0
"""The settings that `run` has in force, without running it."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from otel_qemu import cli
from otel_qemu.settings import SETTINGS, Settings

NOWHERE = Path("/nonexistent/otel-qemu.toml")


class Effective(NamedTuple):
    """The settings in force, where each came from, and the file that was read, if any."""

    settings: Settings
    origins: dict[str, str]
    file: Path | None


def read_settings(
    flags: Mapping[str, str | tuple[str, ...]],
    environment: Mapping[str, str],
    file: Path | None = None,
    default: Path = NOWHERE,
) -> Effective:
    """
    The settings of a command line, an environment and a file.

    Args:
        flags: by key, a text, or a tuple of texts for a flag that is given several times.
        environment: the only variables there are.
        file: given by ``--config``.
        default: in place of /etc/otel-qemu.toml.
    """
    arguments = [*_arguments(flags), *(["--config", str(file)] if file else [])]
    with patch.dict(os.environ, environment, clear=True):
        context = cli.run.make_context("run", arguments, default_map={"file": str(default)})
    origins = {key: setting.origin(context) for key, setting in SETTINGS.items()}
    settings = Settings(**{str(setting.name): context.params[str(setting.name)] for setting in SETTINGS.values()})
    return Effective(settings, origins, context.params["file"])


def _arguments(flags: Mapping[str, str | tuple[str, ...]]) -> Iterator[str]:
    for key, value in flags.items():
        yield from (f"--{key}={text}" for text in ((value,) if isinstance(value, str) else value))
