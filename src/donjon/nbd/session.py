# SPDX-License-Identifier: Apache-2.0
"""One client of an NBD server, once they have agreed on an export: its requests are answered until it leaves.

Source: the NetworkBlockDevice project's doc/proto.md, "Transmission phase".
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from threading import Lock, Thread
from typing import cast

from donjon.errors import DonjonError
from donjon.nbd import server_protocol as protocol
from donjon.nbd.export import ALLOCATION, Export, WritableExport
from donjon.nbd.handshake import Agreement
from donjon.nbd.negotiation import MAX_REQUEST
from donjon.nbd.protocol import Allocation, Command, CommandFlag
from donjon.nbd.server_protocol import ClientError, Request
from donjon.nbd.stream import Stream

PIECE = 1 << 20
SMALLEST_HOLE = 64 * 1024
"""Zeros shorter than that are sent: cheaper than one more chunk."""

_TAKES_FLAGS = {
    Command.READ: CommandFlag.FUA,
    Command.WRITE: CommandFlag.FUA,
    Command.FLUSH: CommandFlag.FUA,
    Command.TRIM: CommandFlag.FUA,
    Command.WRITE_ZEROES: CommandFlag.FUA | CommandFlag.NO_HOLE,
    Command.BLOCK_STATUS: CommandFlag.FUA | CommandFlag.REQ_ONE,
}
_WRITING = {Command.WRITE, Command.TRIM, Command.WRITE_ZEROES}
_ERRORS = {errno.EPERM, errno.EIO, errno.ENOMEM, errno.ENOSPC, errno.EOPNOTSUPP}
_ZEROS = memoryview(bytes(PIECE))


class _Refused(Exception):  # noqa: N818 - an answer
    """The request is answered by an NBD error number and words."""

    def __init__(self, error: int, words: str) -> None:
        super().__init__(words)
        self.error = error


def serve(stream: Stream, agreement: Agreement, threads: int) -> None:
    """Answer the client until it leaves, breaks the protocol or is aborted.

    Its threads take turns: whoever's turn it is receives a request, lets the next one receive, and answers. So as many
    requests as there are threads are under way, each with one piece in memory, and the rest wait in the socket.
    """
    session = _Session(stream, agreement)
    others = [Thread(target=session.run, name="nbd-client", daemon=True) for _ in range(threads - 1)]
    with suppress(RuntimeError):  # No more threads can be had: fewer will do.
        for other in others:
            other.start()
    session.run()
    for other in others:
        if other.ident is not None:
            other.join()


class _Session:
    def __init__(self, stream: Stream, agreement: Agreement) -> None:
        self._stream = stream
        self._structured = agreement.structured
        self._export: Export = agreement.export
        self._contexts = {
            number: name for number, name in enumerate(agreement.export.contexts) if name in agreement.contexts
        }
        self._knows_holes = agreement.structured and ALLOCATION in agreement.export.contexts
        self._turn = Lock()
        self._over = False
        self._answers: dict[int, Callable[[Request, memoryview], None]] = {
            Command.READ: self._read if agreement.structured else self._read_simple,
            Command.FLUSH: self._flush,
            Command.TRIM: self._trim,
            Command.WRITE_ZEROES: self._write_zeroes,
            Command.BLOCK_STATUS: self._block_status,
        }

    def run(self) -> None:
        """Take requests and answer them, in turn with other threads."""
        try:
            self._take_turns(memoryview(bytearray(PIECE)))
        except (OSError, ClientError):
            self._stream.abort()  # The client has gone, or must. Wakes the thread whose turn it is.
        except BaseException:
            self._stream.abort()
            raise

    def _take_turns(self, buffer: memoryview) -> None:
        while (request := self._next(buffer)) is not None:
            if request.command != Command.WRITE:
                self._tell(request, _refusal(lambda: self._answer(request, buffer)))

    def _next(self, buffer: memoryview) -> Request | None:
        """The next request, a WRITE already answered; None: there is none."""
        with self._turn:
            if self._over:
                return None
            self._over = True  # Unless all goes well.
            request = protocol.parse_request(self._stream.receive(protocol.REQUEST_LENGTH))
            if request.command == Command.DISC:
                return None
            if request.command == Command.WRITE:
                self._write(request, buffer)
            self._over = False
            return request

    def _answer(self, request: Request, buffer: memoryview) -> None:
        self._check(request)
        self._answers[request.command](request, buffer)

    def _check(self, request: Request) -> None:
        """Refuse what is not defined, not allowed, too large or beyond the end."""
        if request.command not in _TAKES_FLAGS:
            raise _Refused(errno.EINVAL, "there is no such command")
        command = Command(request.command)
        if request.flags & ~_TAKES_FLAGS[command]:
            raise _Refused(errno.EINVAL, "there is no such flag")
        if self._export.read_only and command in _WRITING:
            raise _Refused(errno.EPERM, "the export is read-only")
        if command in {Command.READ, Command.WRITE} and request.length > MAX_REQUEST:
            raise _Refused(errno.EOVERFLOW, f"more than {MAX_REQUEST} bytes at once")
        if command != Command.FLUSH and not self._within(request):
            raise _Refused(errno.ENOSPC if command in _WRITING else errno.EINVAL, "beyond the end of the disk")

    def _within(self, request: Request) -> bool:
        return request.offset + request.length <= self._export.size

    def _tell(self, request: Request, refused: _Refused | None) -> None:
        """Answer with an error, if there is one."""
        if refused is not None and self._structured:
            self._stream.send(protocol.error_chunk(request.handle, refused.error, str(refused)))
        elif refused is not None:
            self._stream.send(protocol.simple_reply(request.handle, refused.error))

    def _done(self, request: Request) -> None:
        """It is done, and there is nothing to tell."""
        self._stream.send(
            protocol.done_chunk(request.handle) if self._structured else protocol.simple_reply(request.handle)
        )

    def _read(self, request: Request, buffer: memoryview) -> None:
        end = request.offset + request.length
        for offset, length, hole in self._pieces(request.offset, end):
            done = offset + length == end
            if hole:
                self._stream.send(protocol.hole_chunk(request.handle, offset, length, done=done))
            else:
                _attempt(partial(self._export.read_into, offset, buffer[:length]))
                self._stream.send(protocol.data_head(request.handle, offset, length, done=done), buffer[:length])
        if not request.length:
            self._done(request)

    def _pieces(self, offset: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """Offset, length and whether it is a hole: of all that is read."""
        while offset < end:
            for length, hole in self._holes(offset, end - offset):
                step = length if hole else PIECE
                for at in range(offset, offset + length, step):
                    yield at, min(step, offset + length - at), hole
                offset += length

    def _holes(self, offset: int, length: int) -> list[tuple[int, bool]]:
        """Lengths of stretches from there on, and whether each is a hole."""
        if not self._knows_holes:
            return [(length, False)]
        smallest = min(SMALLEST_HOLE, length)
        known = self._stretches(ALLOCATION, offset, length, protocol.STRETCHES_LIMIT)
        holes = [(size, int(bool(flags & Allocation.ZERO) and size >= smallest)) for size, flags in known]
        return [(size, bool(hole)) for size, hole in protocol.merge_neighbours(holes)]

    def _read_simple(self, request: Request, buffer: memoryview) -> None:
        """Without structured replies: once the answer has begun, an error can only end the connection."""
        head = protocol.simple_reply(request.handle)
        for at in range(0, request.length, PIECE):
            piece = buffer[: min(PIECE, request.length - at)]
            refused = _refusal(partial(_attempt, partial(self._export.read_into, request.offset + at, piece)))
            if refused is not None and at:
                raise ClientError("it cannot be told of an error otherwise") from refused
            if refused is not None:
                raise refused
            self._stream.send(head, piece)
            head = b""
        self._stream.send(head)

    def _write(self, request: Request, buffer: memoryview) -> None:
        """The data are taken in any case: the next request comes after them."""
        if request.length > MAX_REQUEST:
            raise ClientError("it writes more at once than is allowed")
        refused = _refusal(partial(self._check, request))
        for at in range(0, request.length, PIECE):
            piece = buffer[: min(PIECE, request.length - at)]
            self._stream.receive_into(piece)
            refused = refused or _refusal(partial(self._write_piece, request.offset + at, piece))
        self._tell(request, refused or _refusal(partial(self._finish_writing, request)))

    def _write_piece(self, offset: int, piece: memoryview) -> None:
        _attempt(partial(self._writable.write, offset, piece))

    def _write_zeroes(self, request: Request, _buffer: memoryview) -> None:
        for at in range(0, request.length, PIECE):
            self._write_piece(request.offset + at, _ZEROS[: min(PIECE, request.length - at)])
        self._finish_writing(request)

    def _trim(self, request: Request, _buffer: memoryview) -> None:
        """A client says what it needs no longer; it may keep what it holds."""
        self._finish_writing(request)

    def _finish_writing(self, request: Request) -> None:
        if request.flags & CommandFlag.FUA:
            _attempt(self._writable.flush)
        self._done(request)

    def _flush(self, request: Request, _buffer: memoryview) -> None:
        if not self._export.read_only:
            _attempt(self._writable.flush)
        self._done(request)

    def _block_status(self, request: Request, _buffer: memoryview) -> None:
        if not self._contexts or not request.length:
            raise _Refused(errno.EINVAL, "no contexts were agreed upon, or nothing is asked about")
        limit = 1 if request.flags & CommandFlag.REQ_ONE else protocol.STRETCHES_LIMIT
        known = {
            number: self._stretches(context, request.offset, request.length, limit)
            for number, context in self._contexts.items()
        }
        last = max(known)
        self._stream.send(
            *(
                protocol.status_chunk(request.handle, number, stretches, done=number == last)
                for number, stretches in known.items()
            )
        )

    def _stretches(self, context: str, offset: int, length: int, limit: int) -> list[tuple[int, int]]:
        stretches: list[tuple[int, int]] = []

        def ask() -> None:
            stretches.extend(protocol.clip_stretches(self._export.block_status(context, offset, length), length, limit))

        _attempt(ask)
        if not stretches:
            raise _Refused(errno.EIO, f"{context} says nothing")
        return stretches

    @property
    def _writable(self) -> WritableExport:
        return cast(WritableExport, self._export)


def _attempt(action: Callable[[], None]) -> None:
    """Do something with the disk; raises _Refused if that fails."""
    try:
        action()
    except DonjonError as error:
        raise _Refused(_number(error.__cause__), str(error)) from error
    except OSError as error:
        raise _Refused(_number(error), str(error)) from error


def _refusal(action: Callable[[], None]) -> _Refused | None:
    """What it is refused with, if it is."""
    try:
        action()
    except _Refused as refused:
        return refused
    return None


def _number(error: BaseException | None) -> int:
    """The protocol knows a few error numbers only."""
    number = error.errno if isinstance(error, OSError) else None
    return number if number in _ERRORS else errno.EIO
