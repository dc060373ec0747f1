# SPDX-License-Identifier: Apache-2.0
"""
The way into a guest: shell scripts go in over a virtio-serial port, status and outputs come back.

The other end is guest_init.sh.  One connection a command: QEMU serves one caller at a time, the next waits.
"""

from __future__ import annotations

import re
import secrets
import select
import socket
import time
from dataclasses import dataclass
from pathlib import Path


class ChannelTimeout(Exception):
    """The guest did not answer in time."""


class ChannelClosed(Exception):
    """The guest's QEMU ended."""


@dataclass(frozen=True)
class Answer:
    """
    What a script in the guest came to.
    """

    status: int
    stdout: str
    stderr: str


def ask(path: Path, script: str, timeout_s: float) -> Answer:
    """Run a shell script in the guest behind the socket at `path`, and wait for its end."""
    body = script.encode()
    request_id = secrets.token_hex(8)
    header = f"{request_id} {max(1, int(timeout_s))} {len(body)}\n"
    # The guest gives up first, so that it can say so; what is left of the deadline is for the way.
    deadline = time.monotonic() + timeout_s + 60
    with socket.socket(socket.AF_UNIX) as connection:
        _connect(connection, path, header.encode() + body, deadline)
        return _answer(connection, request_id, deadline)


def _connect(connection: socket.socket, path: Path, message: bytes, deadline: float) -> None:
    connection.settimeout(max(0.1, deadline - time.monotonic()))
    try:
        connection.connect(str(path))
        connection.sendall(message)
    except TimeoutError:
        raise ChannelTimeout from None
    except OSError as error:
        raise ChannelClosed from error


def _answer(connection: socket.socket, request_id: str, deadline: float) -> Answer:
    # An answer that nobody waited for may come first: look for ours.
    head = re.compile(rf"<<{request_id} (\d+) (\d+) (\d+)>>\n".encode())
    received = bytearray()
    while not (match := head.search(received)):
        received += _receive(connection, deadline)
    status, out_bytes, err_bytes = map(int, match.groups())
    start = match.end()
    while len(received) < start + out_bytes + err_bytes:
        received += _receive(connection, deadline)
    stdout = received[start : start + out_bytes].decode(errors="replace")
    stderr = received[start + out_bytes : start + out_bytes + err_bytes].decode(errors="replace")
    return Answer(status, stdout, stderr)


def _receive(connection: socket.socket, deadline: float) -> bytes:
    left_s = deadline - time.monotonic()
    if left_s <= 0 or not select.select([connection], [], [], left_s)[0]:
        raise ChannelTimeout
    try:
        block = connection.recv(1 << 16)
    except OSError as error:
        raise ChannelClosed from error
    if not block:
        raise ChannelClosed
    return block
