# SPDX-License-Identifier: Apache-2.0
"""A disk exported by an NBD server on a unix socket, read and written by several threads at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import BoundedSemaphore

from donjon.errors import HostError
from donjon.nbd.connection import STATUS_REQUEST, Connection
from donjon.nbd.negotiation import Flag
from donjon.nbd.protocol import Command, CommandFlag, Status

CONNECTIONS = 4


class NbdClient:
    """Thread-safe: each thread has a connection to itself while it reads or writes; connections are used again.

    A server that does not promise that all connections see the same gets only one, and threads wait for each other.
    """

    def __init__(self, connect: Callable[[], Connection]) -> None:
        first = connect()
        self._connect = connect
        self._export = first.export
        self._idle = deque([first])
        self._free = BoundedSemaphore(CONNECTIONS if first.export.flags & Flag.CAN_MULTI_CONN else 1)

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
        return cls(lambda: Connection(path, export, contexts, disk))

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

    def write_zeroes(self, offset: int, length: int, *, may_trim: bool = True) -> None:
        """Make a stretch read as zeros, as a hole if `may_trim` and the server can.

        Raises:
            HostError: the server cannot, or has gone.
        """
        if not self._export.flags & Flag.SEND_WRITE_ZEROES:
            raise HostError("cannot write zeros: the NBD server does not offer it")
        flags = CommandFlag.NONE if may_trim else CommandFlag.NO_HOLE
        step = self._export.max_request
        with self._connection() as connection:
            for at in range(offset, offset + length, step):
                connection.command(Command.WRITE_ZEROES, at, min(step, offset + length - at), flags)

    def flush(self) -> None:
        """Make durable what was written, through whichever connection.

        Raises:
            HostError: the server cannot, or has gone.
        """
        if self._export.flags & Flag.SEND_FLUSH:
            with self._connection() as connection:
                connection.command(Command.FLUSH, 0, 0)

    def block_status(self) -> Iterator[Status]:
        """What the contexts say of the disk: ascending, tiling it; flags in the order the contexts were given.

        Raises:
            HostError: the server cannot tell, or has gone.
        """
        offset = 0
        while offset < self.size:
            with self._connection() as connection:
                known = list(connection.block_status(offset, min(STATUS_REQUEST, self.size - offset)))
            if not known:
                raise HostError(f"cannot examine the disk at offset {offset}: the NBD server says nothing of it")
            yield from known
            offset = known[-1].offset + known[-1].length

    def close(self) -> None:
        """Leave the server; no thread may be using the disk any more."""
        while self._idle:
            self._idle.pop().close()

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        with self._free:
            connection = self._idle.pop() if self._idle else self._connect()
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
            self._idle.append(connection)
