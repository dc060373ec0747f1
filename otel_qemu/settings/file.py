# SPDX-License-Identifier: Apache-2.0
"""The file of settings: TOML, of which each key has its line."""

import re
import tomllib
from pathlib import Path
from typing import Any

from otel_qemu.errors import BadInput

_LARGEST_BYTES = 1 << 20
# Comments and strings of several lines are passed over, since a line of theirs may look like a key.
_KEY = re.compile(
    r"""^[ \t]*\[*[ \t]*([\w-]+|"(?:\\.|[^"\\\n])*"|'[^'\n]*')[ \t]*[.=\]]|#.*|\"{3}[\s\S]*?\"{3}|'{3}[\s\S]*?'{3}""",
    re.MULTILINE,
)


def entries(path: Path) -> dict[str, tuple[Any, str]]:
    """
    The value and the origin, ``FILE line 3``, of each key.

    Raises:
        BadInput: the file cannot be read, or is not TOML.
    """
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise BadInput(f"{path} is larger than a file of settings: give --config another")
        text = path.read_text(encoding="utf-8")
        table = tomllib.loads(text)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}; it must be a file of settings") from None
    except RecursionError:
        raise BadInput(f"{path} is nested too deeply: it must be a file of settings") from None
    except ValueError as error:  # also of bytes that are not UTF-8
        raise BadInput(f"{path} is not TOML: {error}") from None
    lines = lines_of(text)
    return {key: (value, f"{path} line {lines.get(key, '?')}") for key, value in table.items()}


def lines_of(text: str) -> dict[str, int]:
    """The line, from 1, on which each key of a TOML document first begins; tomllib gives no lines."""
    found: dict[str, int] = {}
    line, end = 1, 0
    for match in _KEY.finditer(text):
        if match[1]:
            line, end = line + text.count("\n", end, match.start()), match.start()
            found.setdefault(next(iter(tomllib.loads(f"{match[1]} = 0"))), line)
    return found
