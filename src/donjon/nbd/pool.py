# SPDX-License-Identifier: Apache-2.0
"""Connections to one export of an NBD server, used again and again, and surely closed in the end.

QEMU hangs, and its guest with it, if a client is still negotiating when a backup job ends (seen with QEMU 7.2): so
nothing is left half open, whoever fails wherever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Condition

from donjon.errors import HostError
from donjon.nbd.connection import LEAVE_TIMEOUT_S, Connection, Wanted
from donjon.nbd.stream import Stream


class Pool:
    """Thread-safe."""

    def __init__(self, dial: Callable[[], Stream], wanted: Wanted) -> None:
        self._dial = dial
        self._wanted = wanted
        self._state = Condition()
        self._closed = False
        self._filled = False
        self._at_work = 0
        self._idle: deque[Connection] = deque()
        self._busy: set[Stream] = set()

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """One to oneself; if the block fails it is closed, else it is used again.

        Raises:
            HostError: none can be had.
        """
        connection = self._begin()
        try:
            if connection is None:
                connection = self._open()
            try:
                yield connection
            except BaseException:
                self._drop(connection.stream)
                raise
            self._put_back(connection)
        finally:
            with self._state:
                self._at_work -= 1
                self._state.notify_all()

    def fill(self, connections: int) -> None:
        """Open that many now, and none ever after: what is lost then is not replaced.

        Raises:
            HostError: one cannot be had.
        """
        with ExitStack() as held:
            for _ in range(connections):
                held.enter_context(self.connection())
        with self._state:
            self._filled = True

    def close(self) -> None:
        """Close every connection: idle, at work in another thread, or just being opened; none is opened any more."""
        with self._state:
            self._closed = True
            for stream in self._busy:
                stream.interrupt()
            idle = list(self._idle)
            self._idle.clear()
        for connection in idle:
            connection.close()
        with self._state:
            if not self._state.wait_for(lambda: not self._at_work, LEAVE_TIMEOUT_S):
                for stream in self._busy:
                    stream.abort()
                self._state.wait_for(lambda: not self._at_work)

    def _begin(self) -> Connection | None:
        with self._state:
            self._check_open()
            connection = self._idle.pop() if self._idle else None
            if connection is None and self._filled:
                raise HostError(f"cannot access {self._wanted.disk}: its NBD server has gone")
            self._at_work += 1
            if connection is not None:
                self._busy.add(connection.stream)
            return connection

    def _open(self) -> Connection:
        stream: Stream | None = None
        try:
            stream = self._dial()
            with self._state:
                self._busy.add(stream)
            self._check_open()
            return Connection(stream, self._wanted)
        except BaseException:
            if stream is not None:
                self._drop(stream)
            raise

    def _drop(self, stream: Stream) -> None:
        stream.hang_up(LEAVE_TIMEOUT_S)
        with self._state:
            self._busy.discard(stream)

    def _put_back(self, connection: Connection) -> None:
        with self._state:
            if not self._closed:
                self._busy.discard(connection.stream)
                self._idle.append(connection)
                return
        self._drop(connection.stream)

    def _check_open(self) -> None:
        if self._closed:
            raise HostError(f"cannot access {self._wanted.disk}: the connection to its NBD server has been closed")
