# SPDX-License-Identifier: Apache-2.0
"""
QMP over a Unix socket, for a QEMU that libvirt does not know: one connection a command.

QEMU serves one caller at a time, the next waits.  See docs/interop/qmp-spec in QEMU's sources.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any, TextIO


def ask(path: Path, command: dict[str, Any], timeout_s: float = 120) -> dict[str, Any]:
    """
    Send one command to the QEMU behind the socket at `path`; gives the whole answer, an error too.

    Raises:
        OSError: nobody is there, or it has ended, or is silent for `timeout_s`.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout_s)
        connection.connect(str(path))
        with connection.makefile("rw", encoding="utf-8") as stream:
            _receive(stream)  # the greeting
            _exchange(stream, {"execute": "qmp_capabilities"})
            return _exchange(stream, command)


def _exchange(stream: TextIO, command: dict[str, Any]) -> dict[str, Any]:
    stream.write(json.dumps(command) + "\n")
    stream.flush()
    while True:
        answer = _receive(stream)
        if "event" not in answer:
            return answer


def _receive(stream: TextIO) -> dict[str, Any]:
    line = stream.readline()
    if not line:
        raise ConnectionResetError("QEMU has closed its QMP socket")
    answer: dict[str, Any] = json.loads(line)
    return answer
