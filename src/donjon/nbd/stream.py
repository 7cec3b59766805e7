# SPDX-License-Identifier: Apache-2.0
"""Bytes to and from the other end of a socket, plain or by TLS, from several threads, in bounded time.

Source: socket(7) (SO_RCVTIMEO, SO_SNDTIMEO), unix(7), tcp(7); RFC 8446, section 6.1 (closure alerts).
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import TypeVar

Buffer = bytes | bytearray | memoryview
Received = TypeVar("Received", int, bytes)

_CIPHERTEXT = 256 * 1024
_RECORD = 16 * 1024
_SHORTEST_S = 0.001


class Stream:
    """One thread may receive while others send; what one `send` is given goes out in one piece.

    All its methods raise OSError and nothing else: ConnectionResetError if the other end has gone, TimeoutError if it
    keeps us waiting, ssl.SSLError.
    """

    def __init__(self, connected: socket.socket, stall_s: float | None = None) -> None:
        """Take over a connected socket; `stall_s`: nothing may take longer without a single byte moving."""
        self._socket = connected
        self._stall_s = stall_s
        self._deadline: float | None = None
        self._sending = Lock()
        self._tls: _Tls | None = None
        if connected.family != socket.AF_UNIX:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._limit_calls(socket.SO_RCVTIMEO, stall_s)
        self._limit_calls(socket.SO_SNDTIMEO, stall_s)

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Everything in the block, together, may take no longer than that, however many bytes trickle."""
        self._deadline = time.monotonic() + seconds
        try:
            yield
        finally:
            self._deadline = None
            with suppress(OSError):  # It may be closed.
                self._limit_calls(socket.SO_RCVTIMEO, self._stall_s)
                self._limit_calls(socket.SO_SNDTIMEO, self._stall_s)

    def never_stall_receiving(self) -> None:
        """From now on the other end may be silent for as long as it likes."""
        self._limit_calls(socket.SO_RCVTIMEO, None)

    def receive(self, length: int) -> bytes:
        """So many bytes."""
        data = bytearray(length)
        self.receive_into(memoryview(data))
        return bytes(data)

    def receive_into(self, view: memoryview) -> None:
        """Fill it."""
        while view:
            view = view[self._receive_some(view) :]

    def send(self, *parts: Buffer) -> None:
        """All of these, one after the other."""
        with self._sending:
            if self._tls is None:
                self._send_plain(parts)
                return
            for part in parts:
                self._send_plain([self._tls.encrypt(part)])

    def start_tls(self, context: ssl.SSLContext, *, server_name: str | None = None) -> None:
        """Shake hands; all that follows is encrypted. `server_name`: we are its client, and it must prove to be it."""
        tls = _Tls(context, server_name)
        while not self._step(tls):
            tls.feed(self._receive_plain())
        self._tls = tls

    @property
    def encrypted(self) -> bool:
        """Whether TLS is spoken."""
        return self._tls is not None

    def interrupt(self) -> None:
        """Tell the other end that nothing more will come; who waits for it is answered, or learns that it has gone."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """Nobody waits for this connection any longer, on either end."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def hang_up(self, seconds: float) -> None:
        """Close, after the other end has closed or so many seconds: then it has surely let go of the connection."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
            with self.within(seconds):
                while True:
                    self._receive_plain()
        except OSError:
            pass  # It has gone, or will not go: in both cases there is nothing left to wait for.
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the socket; no thread may be using it."""
        self._socket.close()

    def _step(self, tls: _Tls) -> bool:
        try:
            return tls.shake_hands()
        finally:
            if answer := tls.outgoing():  # Also what is wrong, if something is.
                self._send_plain([answer])

    def _receive_some(self, view: memoryview) -> int:
        if self._tls is None:
            return self._receive_once(lambda: self._socket.recv_into(view, 0, socket.MSG_WAITALL))
        while not (got := self._tls.decrypt_into(view)):
            self._tls.feed(self._receive_plain())
        return got

    def _receive_plain(self) -> bytes:
        return self._receive_once(lambda: self._socket.recv(_CIPHERTEXT))

    def _receive_once(self, receive: Callable[[], Received]) -> Received:
        self._obey_deadline(socket.SO_RCVTIMEO)
        try:
            received = receive()
        except BlockingIOError as error:
            raise _late() from error
        if not received:
            raise ConnectionResetError(errno.ECONNRESET, "it has gone")
        return received

    def _send_plain(self, parts: tuple[Buffer, ...] | list[Buffer]) -> None:
        left = [memoryview(part) for part in parts if part]
        while left:
            self._obey_deadline(socket.SO_SNDTIMEO)
            try:
                sent = self._socket.sendmsg(left)
            except BlockingIOError as error:
                raise _late() from error
            while left and sent >= len(left[0]):
                sent -= len(left.pop(0))
            if sent:
                left[0] = left[0][sent:]

    def _obey_deadline(self, option: int) -> None:
        if self._deadline is not None:
            left = self._deadline - time.monotonic()
            if left < _SHORTEST_S:
                raise _late()
            self._limit_calls(option, left)

    def _limit_calls(self, option: int, seconds: float | None) -> None:
        whole, part = divmod(seconds or 0, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(whole), int(part * 1_000_000)))


class _Tls:
    """TLS without a socket, for several threads: OpenSSL's own may be used by one at a time."""

    def __init__(self, context: ssl.SSLContext, server_name: str | None) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        ours = server_name is None
        self._tls = context.wrap_bio(self._in, self._out, server_side=ours, server_hostname=server_name)
        self._turn = Lock()

    def shake_hands(self) -> bool:
        """Whether that is done; if not, more must be fed."""
        with self._turn:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                return False
            return True

    def feed(self, ciphertext: bytes) -> None:
        """Take what came from the other end."""
        with self._turn:
            self._in.write(ciphertext)

    def outgoing(self) -> bytes:
        """What must go to the other end."""
        with self._turn:
            return self._out.read()

    def encrypt(self, data: Buffer) -> bytes:
        """What must go to the other end to tell it this."""
        with self._turn:
            if data:
                self._tls.write(data)
            return self._out.read()

    def decrypt_into(self, view: memoryview) -> int:
        """How many bytes there were; 0: more must be fed."""
        with self._turn:
            try:
                data = self._tls.read(min(len(view), _RECORD))
            except ssl.SSLWantReadError:
                return 0
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "it has gone")
        view[: len(data)] = data
        return len(data)


def _late() -> TimeoutError:
    return TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
