# SPDX-License-Identifier: Apache-2.0
"""An NBD server: disks of our own for QEMU and others, on unix sockets or by TCP, plain or by TLS.

Clients are not trusted: each is bounded in time until it has chosen an export, in what it has under way, and in what it
can make us keep in memory (a piece of 1 MiB per request under way); nobody waits for another one's sake.

Source: the NetworkBlockDevice project's doc/proto.md; unix(7) (fchmod(2) before bind(2) sets the socket's mode).
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import BoundedSemaphore, Lock, Thread

from donjon.errors import HostError
from donjon.nbd.export import ALLOCATION, Export, WritableExport
from donjon.nbd.handshake import negotiate
from donjon.nbd.server_protocol import ClientError
from donjon.nbd.session import serve
from donjon.nbd.stream import Stream

__all__ = ["ALLOCATION", "Export", "Limits", "NbdServer", "WritableExport"]

_RETRY_S = 0.1


@dataclass(frozen=True)
class Limits:
    """What clients may take of us."""

    clients: int = 64
    """That have chosen an export, at once; more are turned away."""
    strangers: int = 16
    """That have not, at once; more wait until they are let in."""
    negotiation_s: float = 10.0
    """Until a client has chosen, all in all."""
    stall_s: float = 300.0
    """Without taking a single byte of an answer."""
    requests: int = 4
    """Under way at once, per client; more wait until they are read."""


class NbdServer:
    """Serves while one of its `serving_` blocks lasts, several of them at once if need be."""

    def __init__(
        self, exports: Mapping[str, Export], *, tls: ssl.SSLContext | None = None, limits: Limits | None = None
    ) -> None:
        """Serve these exports, by name.

        With `tls` nobody learns or gets anything but by TLS; if clients need a certificate is for the context to say.
        """
        self._exports = dict(exports)
        self._tls = tls
        self._limits = limits or Limits()
        self._doors: set[_Door] = set()

    @contextmanager
    def serving_unix(self, path: Path, mode: int = 0o600) -> Iterator[None]:
        """Serve on a unix socket of that mode; it is gone when the block is left, and so are its clients.

        A socket that a dead server left there is taken over.

        Raises:
            HostError: it cannot be made, or another server is there.
        """
        listener = _listen_unix(path, mode)
        try:
            with self._serving(listener):
                yield
        finally:
            path.unlink(missing_ok=True)

    @contextmanager
    def serving_tcp(self, host: str, port: int = 0) -> Iterator[int]:
        """Serve on a TCP port, which is yielded (0: any that is free); its clients are gone when the block is left.

        Raises:
            HostError: it cannot be had.
        """
        try:
            listener = socket.create_server((host, port), family=_family(host))
        except OSError as error:
            raise HostError(f"cannot serve NBD on {host}:{port}: {error.strerror or error}") from error
        number = int(listener.getsockname()[1])
        with self._serving(listener):
            yield number

    def close(self) -> None:
        """Stop serving everywhere, also within the blocks; returns when no thread uses an export any more."""
        for door in list(self._doors):
            door.close()

    @contextmanager
    def _serving(self, listener: socket.socket) -> Iterator[None]:
        door = _Door(listener, self._exports, self._tls, self._limits)
        self._doors.add(door)
        try:
            yield
        finally:
            door.close()
            self._doors.discard(door)


class _Door:
    """One listening socket, and those who came in by it; each client has threads of its own."""

    def __init__(
        self, listener: socket.socket, exports: Mapping[str, Export], tls: ssl.SSLContext | None, limits: Limits
    ) -> None:
        self._listener = listener
        self._exports = exports
        self._tls = tls
        self._limits = limits
        self._state = Lock()
        self._closed = False
        self._clients: dict[Stream, Thread] = {}
        self._strangers = BoundedSemaphore(limits.strangers)
        self._places = BoundedSemaphore(limits.clients)
        self._doorman = Thread(target=self._let_in, name="nbd-server", daemon=True)
        self._doorman.start()

    def close(self) -> None:
        """Let nobody in any more, and show out who is in; returns when all have gone."""
        with self._state:
            self._closed = True
            clients = dict(self._clients)
        with suppress(OSError):  # Done before.
            self._listener.shutdown(socket.SHUT_RDWR)
        for client in clients:
            client.abort()
        for thread in [*clients.values(), self._doorman]:
            thread.join()
        self._listener.close()

    def _let_in(self) -> None:
        while not self._closed:
            self._strangers.acquire()
            if not self._greet():
                self._strangers.release()

    def _greet(self) -> bool:
        """Wait for a client and leave it to a thread of its own; False: nobody came in."""
        try:
            connected, _ = self._listener.accept()
        except OSError:
            time.sleep(0 if self._closed else _RETRY_S)  # Too many open files, or the client has gone already.
            return False
        client = Stream(connected, self._limits.stall_s)
        thread = Thread(target=self._attend, args=(client,), name="nbd-client", daemon=True)
        with self._state:
            if self._closed:
                client.close()
                return False
            self._clients[client] = thread
            try:
                thread.start()
            except RuntimeError:  # No more threads can be had.
                del self._clients[client]
                client.close()
                return False
        return True

    def _attend(self, client: Stream) -> None:
        try:
            self._attend_stranger(client)
        except (OSError, ClientError):
            pass  # It has gone, or must.
        finally:
            with self._state:
                del self._clients[client]
            client.close()

    def _attend_stranger(self, client: Stream) -> None:
        try:
            with client.within(self._limits.negotiation_s):
                agreement = negotiate(client, self._exports, self._tls)
        finally:
            self._strangers.release()
        if agreement is None or not self._places.acquire(blocking=False):
            return
        try:
            client.never_stall_receiving()
            serve(client, agreement, self._limits.requests)
        finally:
            self._places.release()


def _listen_unix(path: Path, mode: int) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listener.fileno(), mode)
        try:
            listener.bind(os.fspath(path))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _left_behind(path):
                raise
            path.unlink()
            listener.bind(os.fspath(path))
        path.chmod(mode)  # What the umask took away.
        listener.listen()
    except OSError as error:
        listener.close()
        raise HostError(f"cannot serve NBD on {path}: {error.strerror or error}") from error
    return listener


def _left_behind(path: Path) -> bool:
    """Whether nobody listens on this socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            return path.is_socket()
        except OSError:
            return False
        return False


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
