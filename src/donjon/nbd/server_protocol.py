# SPDX-License-Identifier: Apache-2.0
"""The NBD protocol as bytes and objects, from the server's side: what clients ask for, and the answers.

Everything a client says is checked; what does not follow the protocol raises ClientError and nothing else.

Source: the NetworkBlockDevice project's doc/proto.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from donjon.errors import HostError
from donjon.nbd.negotiation import (
    FIXED_NEWSTYLE,
    MAX_REQUEST,
    NBD_MAGIC,
    NO_ZEROES,
    OPTION_MAGIC,
    OPTION_PAYLOAD_LIMIT,
    OPTION_REPLY_MAGIC,
    Flag,
    Info,
    OptionReplyType,
)
from donjon.nbd.protocol import CHUNK_DONE, REQUEST_MAGIC, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, Chunk

CLIENT_GREETING_LENGTH = 4
OPTION_HEAD_LENGTH = 16
REQUEST_LENGTH = 28
NAME_LIMIT = 4096
PREFERRED_REQUEST = 64 * 1024
STRETCHES_LIMIT = 8192
"""In one block status; 64 KiB of them."""

_EXPORT_NAME_PADDING = 124


class ClientError(HostError):
    """A client does not follow the protocol."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"cannot serve an NBD client: {reason}")


class Request(NamedTuple):
    """A command; `flags` and `command` may be ones that nobody has defined."""

    flags: int
    command: int
    handle: int
    offset: int
    length: int


class ExportRequest(NamedTuple):
    """Payload of OPT_GO and OPT_INFO."""

    name: str
    infos: tuple[int, ...]


class ContextRequest(NamedTuple):
    """Payload of OPT_SET_META_CONTEXT and OPT_LIST_META_CONTEXT."""

    name: str
    queries: tuple[str, ...]


def greeting() -> bytes:
    """What a server says first."""
    return struct.pack(">QQH", NBD_MAGIC, OPTION_MAGIC, FIXED_NEWSTYLE | NO_ZEROES)


def parse_client_greeting(data: bytes) -> bool:
    """Whether the answer to EXPORT_NAME must be padded, as of old.

    Raises:
        ClientError: it is malformed, or wants something unknown.
    """
    (flags,) = _unpack(">I", data)
    if not flags & FIXED_NEWSTYLE or flags & ~(FIXED_NEWSTYLE | NO_ZEROES):
        raise ClientError("it speaks an unknown dialect")
    return not flags & NO_ZEROES


def parse_option_head(data: bytes) -> tuple[int, int]:
    """Which option is asked for, and how many bytes of payload follow.

    Raises:
        ClientError: it is malformed, or too long to be listened to.
    """
    magic, asked, length = _unpack(">QII", data)
    if magic != OPTION_MAGIC:
        raise ClientError("it asks for something that is no option")
    if length > OPTION_PAYLOAD_LIMIT:
        raise ClientError(f"it announces an option of {length} bytes")
    return asked, length


def parse_export_request(payload: bytes) -> ExportRequest:
    """Of OPT_GO and OPT_INFO. Raises ClientError."""
    name, rest = _take_string(payload)
    (count,) = _unpack(">H", rest[:2])
    return ExportRequest(name, _unpack(f">{count}H", rest[2:]))


def parse_context_request(payload: bytes) -> ContextRequest:
    """Of OPT_SET_META_CONTEXT and OPT_LIST_META_CONTEXT. Raises ClientError."""
    name, rest = _take_string(payload)
    (count,) = _unpack(">I", rest[:4])
    rest, queries = rest[4:], []
    while rest:
        query, rest = _take_string(rest)
        queries.append(query)
    if len(queries) != count:
        raise ClientError("it asks for another number of contexts than it says")
    return ContextRequest(name, tuple(queries))


def parse_name(payload: bytes) -> str:
    """Of an export; all of the payload of OPT_EXPORT_NAME. Raises ClientError."""
    if len(payload) > NAME_LIMIT:
        raise ClientError("a name is too long")
    try:
        return payload.decode()
    except UnicodeDecodeError as error:
        raise ClientError("a name is not UTF-8") from error


def option_reply(asked: int, kind: OptionReplyType, payload: bytes = b"") -> bytes:
    """Answer to an option."""
    return struct.pack(">QIII", OPTION_REPLY_MAGIC, asked, kind, len(payload)) + payload


def server_payload(name: str) -> bytes:
    """Of REP_SERVER: the name of an export."""
    encoded = name.encode()
    return struct.pack(">I", len(encoded)) + encoded


def export_payload(size: int, flags: Flag) -> bytes:
    """Of REP_INFO: what is exported."""
    return struct.pack(">HQH", Info.EXPORT, size, flags)


def block_size_payload() -> bytes:
    """Of REP_INFO: any byte can be asked for, best in large pieces."""
    return struct.pack(">HIII", Info.BLOCK_SIZE, 1, PREFERRED_REQUEST, MAX_REQUEST)


def context_payload(context_id: int, context: str) -> bytes:
    """Of REP_META_CONTEXT."""
    return struct.pack(">I", context_id) + context.encode()


def export_name_answer(size: int, flags: Flag, *, padded: bool) -> bytes:
    """To EXPORT_NAME, which has no head as other options' answers have."""
    return struct.pack(">QH", size, flags) + bytes(_EXPORT_NAME_PADDING if padded else 0)


def parse_request(head: bytes) -> Request:
    """A command; for WRITE the data follow. Raises ClientError."""
    magic, flags, command, handle, offset, length = _unpack(">IHHQQI", head)
    if magic != REQUEST_MAGIC:
        raise ClientError("its request does not start like one")
    return Request(flags, command, handle, offset, length)


def simple_reply(handle: int, error: int = 0) -> bytes:
    """All of an answer, or what stands before the data."""
    return struct.pack(">IIQ", SIMPLE_REPLY_MAGIC, error, handle)


def data_head(handle: int, offset: int, length: int, *, done: bool) -> bytes:
    """What stands before the data of an OFFSET_DATA chunk."""
    return _chunk_head(handle, Chunk.OFFSET_DATA, 8 + length, done=done) + struct.pack(">Q", offset)


def hole_chunk(handle: int, offset: int, length: int, *, done: bool) -> bytes:
    """Says that a stretch reads as zeros."""
    return _chunk_head(handle, Chunk.OFFSET_HOLE, 12, done=done) + struct.pack(">QI", offset, length)


def done_chunk(handle: int) -> bytes:
    """Ends an answer that has nothing more to say."""
    return _chunk_head(handle, Chunk.NONE, 0, done=True)


def error_chunk(handle: int, error: int, words: str) -> bytes:
    """Ends an answer that has gone wrong."""
    message = words.encode()[:NAME_LIMIT]
    return (
        _chunk_head(handle, Chunk.ERROR, 6 + len(message), done=True)
        + struct.pack(">IH", error, len(message))
        + message
    )


def status_chunk(handle: int, context_id: int, stretches: Sequence[tuple[int, int]], *, done: bool) -> bytes:
    """Lengths and flags of consecutive stretches, in one context."""
    payload = struct.pack(f">I{2 * len(stretches)}I", context_id, *(number for pair in stretches for number in pair))
    return _chunk_head(handle, Chunk.BLOCK_STATUS, len(payload), done=done) + payload


def clip_stretches(stretches: Iterable[tuple[int, int]], length: int, limit: int) -> list[tuple[int, int]]:
    """Neighbours with the same flags as one, at most `limit` of them, together at most `length` bytes."""
    clipped: list[tuple[int, int]] = []
    for stretch in merge_neighbours(stretches):
        if len(clipped) == limit or not length:
            break
        clipped.append((min(stretch[0], length), stretch[1]))
        length -= clipped[-1][0]
    return clipped


def merge_neighbours(stretches: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Neighbours with the same flags as one."""
    merged_length, merged_flags = 0, 0
    for length, flags in stretches:
        if flags != merged_flags and merged_length:
            yield merged_length, merged_flags
            merged_length = 0
        merged_length, merged_flags = merged_length + length, flags
    if merged_length:
        yield merged_length, merged_flags


def _chunk_head(handle: int, kind: Chunk, length: int, *, done: bool) -> bytes:
    return struct.pack(">IHHQI", STRUCTURED_REPLY_MAGIC, CHUNK_DONE if done else 0, kind, handle, length)


def _take_string(payload: bytes) -> tuple[str, bytes]:
    """A string that begins with its length, and what comes after it."""
    (length,) = _unpack(">I", payload[:4])
    if length > len(payload) - 4:
        raise ClientError("a name is cut short")
    return parse_name(payload[4 : 4 + length]), payload[4 + length :]


def _unpack(layout: str, data: bytes) -> tuple[int, ...]:
    try:
        return struct.unpack(layout, data)
    except struct.error as error:
        raise ClientError("what it says has the wrong length") from error
