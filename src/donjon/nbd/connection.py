# SPDX-License-Identifier: Apache-2.0
"""One connection to an NBD server on a unix socket, for one thread at a time, with a few requests under way at once."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

from donjon.errors import HostError
from donjon.nbd import negotiation, protocol
from donjon.nbd.negotiation import Export, Option, OptionReplyType
from donjon.nbd.protocol import Buffer, Chunk, Command, CommandFlag, Coverage, Status

# 1 MiB, four of them under way, reads fastest from qemu-nbd.
PIECE = 1024 * 1024
UNDER_WAY = 4
ANSWER_TIMEOUT_S = 600
ERRNO_END = 4096

# Half of what a request's 32-bit length can say, so that it is a multiple of every block size.
STATUS_REQUEST = 1 << 31


class NoServerError(HostError):
    """Nobody listens on the socket (yet)."""


class _Request:
    """A command under way: where its data go, and what has come of it."""

    def __init__(self, offset: int, length: int, into: memoryview | None = None) -> None:
        self.offset = offset
        self.into = into
        self.coverage = Coverage(offset, length if into is not None else 0)
        self.status: dict[int, list[tuple[int, int]]] = {}
        self.error: str | None = None


class Connection:
    """Not thread-safe. After an error it is of no use any more: close it."""

    def __init__(self, path: Path, export: str, contexts: Sequence[str], disk: str) -> None:
        """Connect and negotiate; `disk` is what errors call the disk.

        Raises:
            NoServerError: nobody listens on the socket.
            HostError: it is no NBD server, lacks one of the contexts, or refuses.
        """
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._disk = disk
        self._handles = count(1)
        self._requests: dict[int, _Request] = {}
        try:
            limit = struct.pack("ll", ANSWER_TIMEOUT_S, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            self._dial(path)
            self._greet()
            self._context_ids = self._choose_contexts(export, contexts) if contexts else []
            self.export = self._go(export)
        except OSError as error:
            self._socket.close()
            raise _lost(error) from error
        except BaseException:
            self._socket.close()
            raise

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer from that offset on."""

        def send(at: int, length: int) -> None:
            self._send(Command.READ, _Request(offset + at, length, buffer[at : at + length]), length)

        self._in_pieces(len(buffer), send)

    def write(self, offset: int, buffer: memoryview) -> None:
        """Write the buffer at that offset."""

        def send(at: int, length: int) -> None:
            piece = buffer[at : at + length]
            self._send(Command.WRITE, _Request(offset + at, length), length, data=piece)

        self._in_pieces(len(buffer), send)

    def command(self, command: Command, offset: int, length: int, flags: CommandFlag = CommandFlag.NONE) -> None:
        """Do something that moves no data."""
        self._send(command, _Request(offset, length), length, flags)
        self._finish_all()

    def block_status(self, offset: int, length: int) -> Iterator[Status]:
        """What the contexts say of the beginning of this range: at least of its first byte."""
        request = _Request(offset, length)
        self._send(Command.BLOCK_STATUS, request, length)
        self._finish_all()
        return protocol.merge_status(
            offset, offset + length, [request.status.get(context, []) for context in self._context_ids]
        )

    def close(self) -> None:
        """Say good-bye, if the server still listens."""
        try:
            if not self._requests:
                self._socket.sendall(protocol.request(Command.DISC, 0, 0, 0))
        except OSError:
            pass  # It has gone already; nothing is owed to it.
        finally:
            self._socket.close()

    # Negotiation

    def _dial(self, path: Path) -> None:
        try:
            self._socket.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NoServerError(f"cannot reach an NBD server at {path}: {error.strerror}") from error

    def _greet(self) -> None:
        negotiation.parse_greeting(self._receive(negotiation.GREETING_LENGTH))
        self._socket.sendall(negotiation.client_greeting())
        self._ask(Option.STRUCTURED_REPLY)

    def _choose_contexts(self, export: str, contexts: Sequence[str]) -> list[int]:
        answers = self._ask(Option.SET_META_CONTEXT, negotiation.meta_context_payload(export, contexts))
        ids = dict(
            negotiation.parse_meta_context(payload) for kind, payload in answers if kind == OptionReplyType.META_CONTEXT
        )
        if missing := [name for name in contexts if name not in ids]:
            raise protocol.broken(f"it does not offer {', '.join(missing)}")
        return [ids[name] for name in contexts]

    def _go(self, export: str) -> Export:
        answers = self._ask(Option.GO, negotiation.go_payload(export))
        return negotiation.parse_export(payload for kind, payload in answers if kind == OptionReplyType.INFO)

    def _ask(self, option: Option, payload: bytes = b"") -> list[tuple[int, bytes]]:
        self._socket.sendall(negotiation.option(option, payload))
        answers: list[tuple[int, bytes]] = []
        for _ in range(negotiation.OPTION_ANSWERS_LIMIT):
            reply = negotiation.parse_option_reply(self._receive(negotiation.OPTION_REPLY_LENGTH), option)
            content = self._receive(reply.length)
            negotiation.check_accepted(reply, content)
            if reply.type == OptionReplyType.ACK:
                return answers
            answers.append((reply.type, content))
        raise protocol.broken("its answer does not end")

    # Requests and replies

    def _in_pieces(self, length: int, send: Callable[[int, int], None]) -> None:
        piece = min(PIECE, self.export.max_request)
        for at in range(0, length, piece):
            send(at, min(piece, length - at))
            while len(self._requests) >= UNDER_WAY:
                self._take_reply()
        self._finish_all()

    def _send(
        self,
        command: Command,
        request: _Request,
        length: int,
        flags: CommandFlag = CommandFlag.NONE,
        data: Buffer = b"",
    ) -> None:
        handle = next(self._handles)
        self._requests[handle] = request
        try:
            self._socket.sendall(protocol.request(command, handle, request.offset, length, flags))
            if data:
                self._socket.sendall(data)
        except OSError as error:
            raise _lost(error) from error

    def _finish_all(self) -> None:
        while self._requests:
            self._take_reply()

    def _take_reply(self) -> None:
        head = self._receive(protocol.REPLY_LENGTH)
        if protocol.is_structured(head):
            head += self._receive(protocol.CHUNK_REST_LENGTH)
        reply = protocol.parse_reply(head)
        request = self._requests.get(reply.handle)
        if request is None:
            raise protocol.broken("it answers something that was not asked")
        if reply.error:
            request.error = _error_words(reply.error)
        self._take_payload(request, reply)
        if reply.done:
            if request.error is not None:
                raise HostError(f"cannot access {self._disk} at offset {request.offset}: {request.error}")
            request.coverage.check_complete()
            del self._requests[reply.handle]

    def _take_payload(self, request: _Request, reply: protocol.Reply) -> None:
        if reply.chunk == Chunk.OFFSET_DATA and reply.length > protocol.DATA_PREFIX_LENGTH:
            offset = protocol.parse_data_prefix(self._receive(protocol.DATA_PREFIX_LENGTH))
            self._receive_into(self._place(request, offset, reply.length - protocol.DATA_PREFIX_LENGTH))
            return
        payload = self._receive(reply.length)
        if reply.chunk == Chunk.OFFSET_HOLE:
            place = self._place(request, *protocol.parse_hole(payload))
            place[:] = bytes(len(place))
        elif reply.chunk == Chunk.BLOCK_STATUS:
            context, stretches = protocol.parse_block_status(payload)
            request.status[context] = stretches
        elif reply.is_error_chunk:
            number, words = protocol.parse_error(payload)
            request.error = words or _error_words(number)
        elif reply.chunk not in {None, Chunk.NONE}:
            raise protocol.broken("it sends a chunk of an unknown kind")

    @staticmethod
    def _place(request: _Request, offset: int, length: int) -> memoryview:
        request.coverage.fill(offset, length)
        if request.into is None:
            raise protocol.broken("it sends data that were not asked for")
        return request.into[offset - request.offset :][:length]

    def _receive(self, length: int) -> bytes:
        data = bytearray(length)
        self._receive_into(memoryview(data))
        return bytes(data)

    def _receive_into(self, view: memoryview) -> None:
        while view:
            try:
                got = self._socket.recv_into(view, 0, socket.MSG_WAITALL)
            except OSError as error:
                raise _lost(error) from error
            if not got:
                raise protocol.broken("it has gone")
            view = view[got:]


def _lost(error: OSError) -> HostError:
    late = error.errno == errno.EAGAIN
    reason = f"it did not answer within {ANSWER_TIMEOUT_S} s" if late else error.strerror or str(error)
    return protocol.broken(reason)


def _error_words(number: int) -> str:
    """NBD's error numbers are Linux's; a server may send any."""
    return os.strerror(number) if number < ERRNO_END else f"error {number}"
