# SPDX-License-Identifier: Apache-2.0
"""
Report the service's state to its manager: systemd's notification protocol (sd_notify(3)).

One datagram of ``NAME=value`` lines to the socket in ``NOTIFY_SOCKET``.  Without that variable nothing is sent.
Tracing goes on when the manager cannot be reached.
"""

import contextlib
import os
import socket
from collections.abc import Mapping

_MORE_TIME_US = 30_000_000  # from one report to the next
_PATIENCE_S = 0.2  # for a busy manager; the loop waits this time at most


class Notifier:
    """A sender of the service's state to its manager."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        """Take the manager's socket from the environment; ``@`` begins an abstract name, unix(7)."""
        name = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{name[1:]}" if name.startswith("@") else name
        self._status = ""

    def ready(self) -> None:
        """Report that probes are attached: units that wait for this one may start."""
        self._send("READY=1")

    def alive(self) -> None:
        """Report that the loop turns.  Without a report for ``WatchdogSec``, systemd restarts the service."""
        self._send("WATCHDOG=1")

    def busy(self) -> None:
        """Report that the loop waits for a file's reader.  Before `ready`, systemd extends ``TimeoutStartSec`` then."""
        self._send(f"WATCHDOG=1\nEXTEND_TIMEOUT_USEC={_MORE_TIME_US}")

    def status(self, text: str) -> None:
        """Send one line for ``systemctl status``, if it has changed."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={' '.join(text.split())}")

    def stopping(self) -> None:
        """Report that the service has begun to end."""
        self._send("STOPPING=1")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.settimeout(_PATIENCE_S)
            channel.sendto(state.encode(errors="replace"), self._address)
