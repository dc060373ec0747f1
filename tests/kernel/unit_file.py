# SPDX-License-Identifier: Apache-2.0
"""Reads deploy/otel-qemu.service, so that tests run with the service's rights."""

import re
import subprocess
from pathlib import Path

UNIT = Path(__file__).parents[2] / "deploy/otel-qemu.service"


def directive(name: str) -> list[str]:
    """The words of a directive that stands there once."""
    (value,) = re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.M)
    return str(value).split()


def capabilities(name: str) -> list[str]:
    """Capabilities of a directive, as setpriv(1) writes them."""
    return [word.removeprefix("CAP_").lower() for word in directive(name)]


def allowed_system_calls() -> set[str]:
    """Of ``SystemCallFilter=``, with its groups as the installed systemd has them."""
    listed = subprocess.run(
        ["systemd-analyze", "syscall-filter"], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    groups: dict[str, list[str]] = {}
    for line in re.sub(r"\x1b\[[0-9;]*m", "", listed).splitlines():
        word = line.split("#")[0].strip()
        if word and line[0] == "@":
            members = groups.setdefault(word, [])
        elif word:
            members.append(word)
    # What every filter lets pass: systemd's own group for the start of a process.
    return _expanded([*directive("SystemCallFilter"), "@default"], groups)


def _expanded(words: list[str], groups: dict[str, list[str]]) -> set[str]:
    found: set[str] = set()
    for word in words:
        found |= _expanded(groups[word], groups) if word.startswith("@") else {word}
    return found
