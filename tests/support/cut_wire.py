# SPDX-License-Identifier: Apache-2.0
"""
A wire between a client and a server on loopback that is cut, once, in the middle of something.

In: where the server is, and when to cut.  Out: an address to connect to instead.
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

from tests.children import join

Cut = Callable[[bool, int], bool]
"""Whether to cut now: before bytes from the server (or to it), after so many have passed that way."""


class CutWire:
    """
    Forwards every connection, until `cut` says so; after that it is whole again.

    Args:
        server: host and port.
        cut: when.
    """

    def __init__(self, server: tuple[str, int], cut: Cut) -> None:
        self._server = server
        self._cut = cut
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        self._lock = threading.Lock()
        self.cuts = 0

    @property
    def port(self) -> int:
        """To connect to."""
        return int(self._listener.getsockname()[1])

    def accept(self) -> None:
        """Forward connections, until the listener is closed."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._sockets += client, server
                for ends, answers in (((client, server), False), ((server, client), True)):
                    threading.Thread(target=self._pump, args=(*ends, answers), daemon=True).start()

    def close(self) -> None:
        """Cut everything for good."""
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(1000):
                if self._is_cut(answers, passed):
                    break
                sink.sendall(data)
                passed += len(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                # Closing it this way is a reset.
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                each.shutdown(socket.SHUT_RDWR)

    def _is_cut(self, answers: bool, passed: int) -> bool:
        with self._lock:
            now = not self.cuts and self._cut(answers, passed)
            self.cuts += now
            return now


@contextlib.contextmanager
def cut_wire(server: tuple[str, int], cut: Cut) -> Iterator[CutWire]:
    """A wire, as long as the block runs."""
    wire = CutWire(server, cut)
    thread = threading.Thread(target=wire.accept, daemon=True)
    thread.start()
    try:
        yield wire
    finally:
        wire.close()
        join(thread)
