"""
Tell the service manager how it goes: systemd's notification protocol (sd_notify(3)).

One datagram of ``NAME=value`` lines to the socket in ``NOTIFY_SOCKET``.  Without that variable nobody listens, and
nothing is sent.  A manager that cannot be reached is no reason to stop tracing.
"""

import contextlib
import os
import socket
from collections.abc import Mapping

_PATIENCE_S = 0.2  # of a manager that is busy; the loop waits meanwhile


class Notifier:
    """What a service tells its manager."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        """Read where the manager listens; ``@`` begins an abstract name, unix(7)."""
        name = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{name[1:]}" if name.startswith("@") else name
        self._status = ""

    def ready(self) -> None:
        """Probes are attached: what was waiting for us may start."""
        self._send("READY=1")

    def alive(self) -> None:
        """The loop went round; when this stays away for ``WatchdogSec``, we are killed and started again."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``; told when it has changed."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={' '.join(text.split())}")

    def stopping(self) -> None:
        """We end, and have begun to."""
        self._send("STOPPING=1")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.settimeout(_PATIENCE_S)
            channel.sendto(state.encode(errors="replace"), self._address)
