# SPDX-License-Identifier: Apache-2.0
"""A disk exported by an NBD server, read and written by several threads at once."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import BoundedSemaphore

from donjon.errors import HostError
from donjon.nbd.connection import Connection, Tls, Wanted
from donjon.nbd.dial import dial_tcp, dial_unix
from donjon.nbd.negotiation import Flag
from donjon.nbd.pool import Pool
from donjon.nbd.protocol import Status

CONNECTIONS = 4

# Half of what a request's 32-bit length can say, so that it is a multiple of every block size.
STATUS_REQUEST = 1 << 31
STATUS_UNDER_WAY = 4


class NbdClient:
    """Thread-safe: each thread has a connection to itself while it reads or writes; connections are used again.

    A server that does not promise that all connections see the same gets only one, and threads wait for each other.
    """

    def __init__(self, pool: Pool) -> None:
        """Connect for the first time; see `connect_unix` and `connect_tcp`."""
        self._pool = pool
        with pool.connection() as first:
            self._export = first.export
        self._connections = CONNECTIONS if self._export.flags & Flag.CAN_MULTI_CONN else 1
        self._free = BoundedSemaphore(self._connections)

    @classmethod
    def connect_unix(
        cls, path: Path, export: str = "", contexts: Sequence[str] = (), *, disk: str = "the disk"
    ) -> NbdClient:
        """Connect to a server's export.

        Args:
            path: of its socket.
            export: its name.
            contexts: what `block_status` tells about ("base:allocation", "qemu:dirty-bitmap:NAME").
            disk: what errors call the disk.

        Raises:
            HostError: there is no NBD server, it lacks one of the contexts, or refuses.
        """
        return cls(Pool(partial(dial_unix, path), Wanted(export, tuple(contexts), disk)))

    @classmethod
    def connect_tcp(
        cls,
        host: str,
        port: int,
        export: str = "",
        contexts: Sequence[str] = (),
        *,
        tls: ssl.SSLContext | None,
        disk: str = "the disk",
    ) -> NbdClient:
        """Connect to a server's export by TCP.

        Args:
            host: its name or address; with `tls` its certificate must be for that.
            port: where it listens.
            export: its name.
            contexts: what `block_status` tells about.
            tls: whom to trust, and our certificate if it wants one; nothing is asked or told without TLS then.
                None: plain, for networks that nobody else is on.
            disk: what errors call the disk.

        Raises:
            HostError: there is no NBD server, it is not who it should be, lacks one of the contexts, or refuses.
        """
        secured = Tls(tls, host) if tls is not None else None
        return cls(Pool(partial(dial_tcp, host, port), Wanted(export, tuple(contexts), disk, secured)))

    def connect_fully(self) -> None:
        """Open all connections there will ever be, so that no handshake can be under way later.

        Raises:
            HostError: the server does not let us in as often.
        """
        self._pool.fill(self._connections)

    @property
    def size(self) -> int:
        """Of the disk, in bytes."""
        return self._export.size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the disk's bytes from `offset` on.

        Raises:
            HostError: the server cannot read there, or has gone.
        """
        with self._connection() as connection:
            connection.read_into(offset, buffer)

    def write(self, offset: int, buffer: memoryview) -> None:
        """Write `buffer` at `offset`; durable only after `flush`.

        Raises:
            HostError: the server cannot write there, or has gone.
        """
        with self._connection() as connection:
            connection.write(offset, buffer)

    def flush(self) -> None:
        """Make durable what was written, through whichever connection.

        Raises:
            HostError: the server cannot, or has gone.
        """
        if self._export.flags & Flag.SEND_FLUSH:
            with self._connection() as connection:
                connection.flush()

    def block_status(self) -> Iterator[Status]:
        """What the contexts say of the disk: ascending, tiling it; flags in the order the contexts were given.

        Raises:
            HostError: the server cannot tell, or has gone.
        """
        step = STATUS_REQUEST * STATUS_UNDER_WAY
        for start in range(0, self.size, step):
            end = min(start + step, self.size)
            with self._connection() as connection:
                ranges = [(at, min(STATUS_REQUEST, end - at)) for at in range(start, end, STATUS_REQUEST)]
                answers = connection.block_status(ranges)
            for (offset, length), known in zip(ranges, answers, strict=True):
                yield from self._whole_status(offset, offset + length, known)

    def close(self) -> None:
        """Leave the server; when it returns, every connection is closed, and none is opened any more.

        That holds for connections that other threads use or are opening, too: these threads get HostError. It takes
        seconds at most, however the server behaves.
        """
        self._pool.close()

    def _whole_status(self, at: int, end: int, known: Sequence[Status]) -> Iterator[Status]:
        """What was said of a stretch and, as a server may say less than it was asked for, the rest."""
        while True:
            if not known:
                raise HostError(f"cannot examine the disk at offset {at}: the NBD server says nothing of it")
            yield from known
            at = known[-1].offset + known[-1].length
            if at >= end:
                return
            with self._connection() as connection:
                [known] = connection.block_status([(at, end - at)])

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        with self._free, self._pool.connection() as connection:
            yield connection
