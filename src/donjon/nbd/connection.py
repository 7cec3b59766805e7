# SPDX-License-Identifier: Apache-2.0
"""One connection to an NBD server, for one thread at a time, with a few requests under way at once."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

from donjon.errors import HostError
from donjon.nbd import negotiation, protocol
from donjon.nbd.negotiation import Option, OptionReplyType, RemoteExport
from donjon.nbd.protocol import Buffer, Chunk, Command, Coverage, Status
from donjon.nbd.stream import Stream

# A quarter of a MiB, eight of them under way, reads fastest from qemu-nbd: larger ones do not stay in the CPU's cache.
PIECE = 256 * 1024
UNDER_WAY = 8
NEGOTIATION_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 600.0
LEAVE_TIMEOUT_S = 5.0
ERRNO_END = 4096


@dataclass(frozen=True)
class Tls:
    """How a server proves who it is: by a certificate for that name."""

    context: ssl.SSLContext
    server_name: str


@dataclass(frozen=True)
class Wanted:
    """What a client wants of a server; `disk` is what errors call the disk."""

    export: str
    contexts: tuple[str, ...]
    disk: str
    tls: Tls | None = None


class _Request:
    """A command under way: where its data go, and what has come of it."""

    def __init__(self, offset: int, length: int, into: memoryview | None = None) -> None:
        self.offset = offset
        self.into = into
        self.coverage = Coverage(offset, length if into is not None else 0)
        self.status: dict[int, list[tuple[int, int]]] = {}


class Connection:
    """Not thread-safe. After an error it is of no use any more: close it."""

    def __init__(self, stream: Stream, wanted: Wanted) -> None:
        """Negotiate; it is for the caller to hang the stream up if that fails.

        Raises:
            HostError: there is no NBD server, it lacks TLS or one of the contexts, or refuses.
        """
        self.stream = stream
        self._disk = wanted.disk
        self._handles = count(1)
        self._requests: dict[int, _Request] = {}
        try:
            with stream.within(NEGOTIATION_TIMEOUT_S):
                self._greet(wanted.tls)
                self._context_ids = self._choose_contexts(wanted) if wanted.contexts else []
                self.export = self._go(wanted.export)
        except OSError as error:
            raise _lost(error) from error

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer from that offset on."""

        def send(at: int, length: int) -> None:
            self._send(Command.READ, _Request(offset + at, length, buffer[at : at + length]), length)

        self._in_pieces(len(buffer), send)

    def write(self, offset: int, buffer: memoryview) -> None:
        """Write the buffer at that offset."""

        def send(at: int, length: int) -> None:
            self._send(Command.WRITE, _Request(offset + at, length), length, buffer[at : at + length])

        self._in_pieces(len(buffer), send)

    def flush(self) -> None:
        """Make durable what was written."""
        self._send(Command.FLUSH, _Request(0, 0), 0)
        self._finish_all()

    def block_status(self, ranges: Sequence[tuple[int, int]]) -> list[list[Status]]:
        """What the contexts say of the beginning of each of these (offset, length): at least of its first byte."""
        requests = [_Request(offset, length) for offset, length in ranges]
        for request, (_, length) in zip(requests, ranges, strict=True):
            self._send(Command.BLOCK_STATUS, request, length)
        self._finish_all()
        return [
            list(
                protocol.merge_status(
                    offset, offset + length, [request.status.get(context, []) for context in self._context_ids]
                )
            )
            for request, (offset, length) in zip(requests, ranges, strict=True)
        ]

    def close(self) -> None:
        """Say good-bye, if the server still listens, and wait until it has let go of the connection."""
        try:
            if not self._requests:
                self.stream.send(protocol.request(Command.DISC, 0, 0, 0))
        except OSError:
            pass  # It has gone already; nothing is owed to it.
        finally:
            self.stream.hang_up(LEAVE_TIMEOUT_S)

    # Negotiation

    def _greet(self, tls: Tls | None) -> None:
        negotiation.parse_greeting(self.stream.receive(negotiation.GREETING_LENGTH))
        self.stream.send(negotiation.client_greeting())
        if tls is not None:
            self._ask(Option.STARTTLS)
            self.stream.start_tls(tls.context, server_name=tls.server_name)
        self._ask(Option.STRUCTURED_REPLY)

    def _choose_contexts(self, wanted: Wanted) -> list[int]:
        payload = negotiation.meta_context_payload(wanted.export, wanted.contexts)
        answers = self._ask(Option.SET_META_CONTEXT, payload)
        ids = dict(
            negotiation.parse_meta_context(payload) for kind, payload in answers if kind == OptionReplyType.META_CONTEXT
        )
        if missing := [name for name in wanted.contexts if name not in ids]:
            raise protocol.broken(f"it does not offer {', '.join(missing)}")
        return [ids[name] for name in wanted.contexts]

    def _go(self, export: str) -> RemoteExport:
        answers = self._ask(Option.GO, negotiation.go_payload(export))
        return negotiation.parse_export(payload for kind, payload in answers if kind == OptionReplyType.INFO)

    def _ask(self, option: Option, payload: bytes = b"") -> list[tuple[int, bytes]]:
        self.stream.send(negotiation.option(option, payload))
        answers: list[tuple[int, bytes]] = []
        for _ in range(negotiation.OPTION_ANSWERS_LIMIT):
            reply = negotiation.parse_option_reply(self.stream.receive(negotiation.OPTION_REPLY_LENGTH), option)
            content = self.stream.receive(reply.length)
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

    def _send(self, command: Command, request: _Request, length: int, data: Buffer = b"") -> None:
        handle = next(self._handles)
        self._requests[handle] = request
        try:
            self.stream.send(protocol.request(command, handle, request.offset, length), data)
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
            raise self._failed(request, _error_words(reply.error))
        self._take_payload(request, reply)
        if reply.done:
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
            self._take_status(request, payload)
        elif reply.is_error_chunk:
            number, words = protocol.parse_error(payload)
            raise self._failed(request, words or _error_words(number))
        elif reply.chunk is not None and not (reply.chunk == Chunk.NONE and reply.done):
            raise protocol.broken("it sends a chunk of an unknown kind")

    def _take_status(self, request: _Request, payload: bytes) -> None:
        context, stretches = protocol.parse_block_status(payload)
        if context not in self._context_ids or context in request.status or request.into is not None:
            raise protocol.broken("it tells what was not asked for")
        request.status[context] = stretches

    @staticmethod
    def _place(request: _Request, offset: int, length: int) -> memoryview:
        request.coverage.fill(offset, length)
        if request.into is None:
            raise protocol.broken("it sends data that were not asked for")
        return request.into[offset - request.offset :][:length]

    def _failed(self, request: _Request, words: str) -> HostError:
        return HostError(f"cannot access {self._disk} at offset {request.offset}: {words}")

    def _receive(self, length: int) -> bytes:
        data = bytearray(length)
        self._receive_into(memoryview(data))
        return bytes(data)

    def _receive_into(self, view: memoryview) -> None:
        try:
            self.stream.receive_into(view)
        except OSError as error:
            raise _lost(error) from error


def _lost(error: OSError) -> HostError:
    late = isinstance(error, TimeoutError)
    return protocol.broken("it did not answer in time" if late else error.strerror or str(error))


def _error_words(number: int) -> str:
    """NBD's error numbers are Linux's; a server may send any."""
    return os.strerror(number) if number < ERRNO_END else f"error {number}"
