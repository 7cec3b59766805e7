# SPDX-License-Identifier: Apache-2.0
"""The other end of an NBD connection that says whatever it is told to: for hostile servers and clients."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from donjon.errors import HostError
from donjon.nbd.client import NbdClient
from donjon.nbd.connection import Wanted
from donjon.nbd.handshake import negotiate
from donjon.nbd.pool import Pool
from donjon.nbd.server import ALLOCATION, Export
from donjon.nbd.server_protocol import ClientError
from donjon.nbd.session import serve
from donjon.nbd.stream import Stream

STALL_S = 5.0


def client_hears(sent: bytes, use: Callable[[NbdClient], object]) -> None:
    """Let a client connect to a server that says just this and then nothing more, and use it.

    Raises:
        HostError: as the client does.
    """
    with _told(sent) as (ours, _):
        client = NbdClient(Pool(lambda: ours, Wanted("", (ALLOCATION,), "the disk")))
        try:
            use(client)
        finally:
            client.close()


def server_hears(sent: bytes, exports: Mapping[str, Export]) -> bytes:
    """What a server answers to a client that says just this; must fit into a socket's buffer."""
    with _told(sent) as (ours, theirs):
        with suppress(ClientError, OSError):
            agreement = negotiate(ours, exports, None)
            if agreement is not None:
                serve(ours, agreement, 1)
        ours.hang_up(STALL_S)
        return b"".join(iter(lambda: theirs.recv(1 << 16), b""))


def client_asks(*options: tuple[int, bytes]) -> bytes:
    """What a client says to negotiate: its greeting, and these options with their payloads."""
    return struct.pack(">I", 3) + b"".join(
        struct.pack(">QII", 0x49484156454F5054, option, len(payload)) + payload for option, payload in options
    )


def client_requests(command: int, offset: int, length: int, *, flags: int = 0, handle: int = 7) -> bytes:
    """A client's command."""
    return struct.pack(">IHHQQI", 0x25609513, flags, command, handle, offset, length)


def refused(action: Callable[[], object]) -> bool:
    """Whether it raises HostError; whatever else it raises comes out."""
    try:
        action()
    except HostError:
        return True
    return False


@contextmanager
def _told(sent: bytes) -> Iterator[tuple[Stream, socket.socket]]:
    """Two ends of a connection; on the first all of this has arrived, and then the end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        with suppress(BlockingIOError):
            theirs.sendall(sent)
        theirs.shutdown(socket.SHUT_WR)
        theirs.setblocking(True)
        yield Stream(ours, STALL_S), theirs
