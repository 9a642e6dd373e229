"""Ports for servers that cannot be given port 0 because others have to know the number first."""

from __future__ import annotations

import os
import socket
import weakref


class ReservedPort:
    """A free port that nobody else gets while this object lives, so that a server can take it whenever it is ready.

    The socket is bound and never listens. The kernel hands such a port to nobody who asks for any port, and lets a
    server bind it by number when that sets SO_REUSEADDR, as those of Python, Go and torch do.
    """

    def __init__(self, address: str = "127.0.0.1") -> None:
        with socket.socket() as held:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind((address, 0))
            self.number: int = held.getsockname()[1]
            weakref.finalize(self, os.close, held.detach())
