# SPDX-License-Identifier: Apache-2.0
"""The NBD protocol as bytes and objects, from the client's side: commands, and replies simple and structured.

Everything a server says is checked; what does not follow the protocol raises HostError and nothing else.

Source: the NetworkBlockDevice project's doc/proto.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum, IntFlag
from typing import NamedTuple

from donjon.errors import HostError

Buffer = bytes | bytearray | memoryview

REPLY_LENGTH = 16
CHUNK_REST_LENGTH = 4
DATA_PREFIX_LENGTH = 8
CHUNK_PAYLOAD_LIMIT = 32 * 1024 * 1024 + DATA_PREFIX_LENGTH

REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698
STRUCTURED_REPLY_MAGIC = 0x668E33EF
_CHUNK_ERROR_BIT = 1 << 15
CHUNK_DONE = 1


class Command(IntEnum):
    """What is asked for once connected."""

    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


class CommandFlag(IntFlag):
    """How a command is meant."""

    NONE = 0
    FUA = 1 << 0
    NO_HOLE = 1 << 1
    REQ_ONE = 1 << 3


class Chunk(IntEnum):
    """Parts a structured reply is made of."""

    NONE = 0
    OFFSET_DATA = 1
    OFFSET_HOLE = 2
    BLOCK_STATUS = 5
    ERROR = 1 << 15 | 1


class Allocation(IntFlag):
    """Flags of the context base:allocation."""

    HOLE = 1
    ZERO = 2


class DirtyBitmap(IntFlag):
    """Flags of a context qemu:dirty-bitmap:NAME. Source: QEMU's docs/interop/nbd.txt."""

    DIRTY = 1


class Reply(NamedTuple):
    """Head of an answer to a command; `length` bytes follow. `chunk` is None for a simple reply."""

    handle: int
    error: int
    chunk: int | None = None
    done: bool = True
    length: int = 0

    @property
    def is_error_chunk(self) -> bool:
        """The payload says what went wrong."""
        return self.chunk is not None and bool(self.chunk & _CHUNK_ERROR_BIT)


class Status(NamedTuple):
    """A stretch of the disk and its flags in each context that was asked about, in that order."""

    offset: int
    length: int
    flags: tuple[int, ...]


def request(command: Command, handle: int, offset: int, length: int, flags: CommandFlag = CommandFlag.NONE) -> bytes:
    """Ask for something once connected; for WRITE the data follow."""
    return struct.pack(">IHHQQI", REQUEST_MAGIC, flags, command, handle, offset, length)


def is_structured(head: bytes) -> bool:
    """Whether CHUNK_REST_LENGTH more bytes belong to the head of this reply.

    Raises:
        HostError: it is no reply.
    """
    (magic,) = unpack(">I", head[:4])
    if magic not in {SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC}:
        raise broken("its answer does not start like one")
    return bool(magic == STRUCTURED_REPLY_MAGIC)


def parse_reply(head: bytes) -> Reply:
    """Head of a simple reply (REPLY_LENGTH bytes), or of a chunk of a structured one (CHUNK_REST_LENGTH more).

    Raises:
        HostError: it is malformed.
    """
    if not is_structured(head):
        _, error, handle = unpack(">IIQ", head)
        return Reply(handle, error)
    _, flags, chunk, handle, length = unpack(">IHHQI", head)
    if length > CHUNK_PAYLOAD_LIMIT:
        raise broken(f"it announces a chunk of {length} bytes")
    return Reply(handle, 0, chunk, bool(flags & CHUNK_DONE), length)


def parse_data_prefix(prefix: bytes) -> int:
    """Offset on the disk of the data that follow in an OFFSET_DATA chunk."""
    (offset,) = unpack(">Q", prefix)
    return int(offset)


def parse_hole(payload: bytes) -> tuple[int, int]:
    """Offset and length of a stretch that reads as zeros.

    Raises:
        HostError: it is malformed.
    """
    offset, length = unpack(">QI", payload)
    return offset, length


def parse_error(payload: bytes) -> tuple[int, str]:
    """Error number and words of an error chunk.

    Raises:
        HostError: it is malformed.
    """
    number, length = unpack(">IH", payload[:6])
    if length > len(payload) - 6:
        raise broken("its error message is cut short")
    return number, payload[6 : 6 + length].decode(errors="replace")


def parse_block_status(payload: bytes) -> tuple[int, list[tuple[int, int]]]:
    """Context id, and (length, flags) of consecutive stretches.

    Raises:
        HostError: it is malformed, says nothing, or has an empty stretch.
    """
    (context,) = unpack(">I", payload[:4])
    if len(payload) < 12 or (len(payload) - 4) % 8:
        raise broken("its block status is cut short")
    stretches = [(length, flags) for length, flags in struct.iter_unpack(">II", payload[4:])]
    if any(length == 0 for length, _ in stretches):
        raise broken("its block status has an empty stretch")
    return context, stretches


class Coverage:
    """Proves that the chunks of a structured reply fill what was asked for: every byte once."""

    def __init__(self, offset: int, length: int) -> None:
        self._offset = offset
        self._end = offset + length
        self._filled: list[tuple[int, int]] = []
        self._total = 0

    def fill(self, offset: int, length: int) -> None:
        """Note that a chunk brings these bytes.

        Raises:
            HostError: they were not asked for, are none, or more in all than were asked for.
        """
        self._total += length
        if not self._offset <= offset < offset + length <= self._end or self._total > self._end - self._offset:
            raise broken("it sends data that were not asked for")
        self._filled.append((offset, offset + length))

    def check_complete(self) -> None:
        """Do nothing if every byte came once.

        Raises:
            HostError: one is missing, or came twice.
        """
        at = self._offset
        for start, end in sorted(self._filled):
            if start != at:
                raise broken("its chunks do not fit together")
            at = end
        if at != self._end:
            raise broken("it sends less than was asked for")


def merge_status(offset: int, end: int, per_context: Sequence[Iterable[tuple[int, int]]]) -> Iterator[Status]:
    """Lay the stretches of several contexts, which all begin at `offset`, over each other.

    It ends where the first context ends, or at `end`: a server may say less than it was asked for, or more.
    """
    contexts = [iter(stretches) for stretches in per_context]
    current = [next(stretches, None) for stretches in contexts]
    while offset < end:
        known = [stretch for stretch in current if stretch is not None]
        if len(known) < len(contexts):
            return
        length = min(end - offset, *(left for left, _ in known))
        yield Status(offset, length, tuple(flags for _, flags in known))
        offset += length
        current = [
            (left - length, flags) if left > length else next(stretches, None)
            for (left, flags), stretches in zip(known, contexts, strict=True)
        ]


def unpack(layout: str, data: bytes) -> tuple[int, ...]:
    """As struct.unpack, for bytes that a server sent.

    Raises:
        HostError: there are too few of them, or too many.
    """
    try:
        return struct.unpack(layout, data)
    except struct.error as error:
        raise broken("its answer has the wrong length") from error


def broken(reason: str) -> HostError:
    """The error that says the server does not keep to the protocol."""
    return HostError(f"cannot talk to the NBD server: {reason}")
