# SPDX-License-Identifier: Apache-2.0
"""The NBD protocol's first part as bytes and objects: client and server agree on an export (fixed newstyle).

Everything a server says is checked; what does not follow the protocol raises HostError and nothing else.

Source: the NetworkBlockDevice project's doc/proto.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import NamedTuple

from donjon.errors import HostError
from donjon.nbd.protocol import broken, unpack

GREETING_LENGTH = 18
OPTION_REPLY_LENGTH = 20
OPTION_PAYLOAD_LIMIT = 64 * 1024
OPTION_ANSWERS_LIMIT = 64
MAX_REQUEST = 32 * 1024 * 1024
SMALLEST_MAX_REQUEST = 4096

NBD_MAGIC = 0x4E42444D41474943
OPTION_MAGIC = 0x49484156454F5054
OPTION_REPLY_MAGIC = 0x0003E889045565A9
FIXED_NEWSTYLE = 1
NO_ZEROES = 2
_REPLY_ERROR_BIT = 1 << 31


class Option(IntEnum):
    """What is asked for during negotiation."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10


class OptionReplyType(IntEnum):
    """How a server answers an option."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = _REPLY_ERROR_BIT | 1
    ERR_INVALID = _REPLY_ERROR_BIT | 3
    ERR_TLS_REQD = _REPLY_ERROR_BIT | 5
    ERR_UNKNOWN = _REPLY_ERROR_BIT | 6


class Info(IntEnum):
    """What OPT_GO tells about an export."""

    EXPORT = 0
    BLOCK_SIZE = 3


class Flag(IntFlag):
    """What an export can do (transmission flags)."""

    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    SEND_FLUSH = 1 << 2
    SEND_FUA = 1 << 3
    SEND_TRIM = 1 << 5
    SEND_WRITE_ZEROES = 1 << 6
    CAN_MULTI_CONN = 1 << 8


@dataclass(frozen=True, slots=True)
class RemoteExport:
    """What a server says of the disk it exports; sizes in bytes."""

    size: int
    flags: Flag
    max_request: int


class OptionReply(NamedTuple):
    """Head of an answer to an option; `length` bytes follow."""

    type: int
    length: int


def parse_greeting(greeting: bytes) -> None:
    """Check that it comes from an NBD server of the fixed newstyle kind.

    Raises:
        HostError: it does not.
    """
    magic, option_magic, flags = unpack(">QQH", greeting)
    if (magic, option_magic) != (NBD_MAGIC, OPTION_MAGIC):
        raise broken("its greeting is not NBD's")
    if not flags & FIXED_NEWSTYLE or not flags & NO_ZEROES:
        raise broken("it speaks an outdated dialect")


def client_greeting() -> bytes:
    """What a client answers to the greeting."""
    return struct.pack(">I", FIXED_NEWSTYLE | NO_ZEROES)


def option(option: Option, payload: bytes = b"") -> bytes:
    """Ask for an option."""
    return struct.pack(">QII", OPTION_MAGIC, option, len(payload)) + payload


def go_payload(export: str) -> bytes:
    """Of OPT_GO: the export's name, and that its block sizes are wanted."""
    return _string(export) + struct.pack(">HH", 1, Info.BLOCK_SIZE)


def meta_context_payload(export: str, contexts: Sequence[str]) -> bytes:
    """Of OPT_SET_META_CONTEXT."""
    return _string(export) + struct.pack(">I", len(contexts)) + b"".join(_string(name) for name in contexts)


def parse_option_reply(head: bytes, asked: Option) -> OptionReply:
    """Head of an answer to the option that was asked for.

    Raises:
        HostError: it is none, or too long.
    """
    magic, answered, kind, length = unpack(">QIII", head)
    if magic != OPTION_REPLY_MAGIC or answered != asked:
        raise broken("it answers something that was not asked")
    if length > OPTION_PAYLOAD_LIMIT:
        raise broken(f"it announces an answer of {length} bytes")
    return OptionReply(kind, length)


def check_accepted(reply: OptionReply, payload: bytes) -> None:
    """Pass over anything that is not a refusal.

    Raises:
        HostError: the server refuses; with its words.
    """
    if reply.type & _REPLY_ERROR_BIT:
        words = payload.decode(errors="replace") or f"error {reply.type & ~_REPLY_ERROR_BIT}"
        raise HostError(f"cannot open the export: the NBD server says: {words}")


def parse_export(infos: Iterable[bytes]) -> RemoteExport:
    """What the INFO answers to OPT_GO say together; kinds that were not asked for are passed over.

    Raises:
        HostError: one is malformed, or the export itself is missing.
    """
    export, max_request = None, MAX_REQUEST
    for payload in infos:
        (kind,) = unpack(">H", payload[:2])
        if kind == Info.EXPORT:
            export = unpack(">HQH", payload)
        elif kind == Info.BLOCK_SIZE:
            max_request = min(unpack(">HIII", payload)[3], MAX_REQUEST)
    if export is None or export[1] >= 1 << 63 or max_request < SMALLEST_MAX_REQUEST:
        raise broken("it does not say what it exports")
    return RemoteExport(export[1], Flag(export[2]), max_request)


def parse_meta_context(payload: bytes) -> tuple[str, int]:
    """Name and id of a context the server agrees to.

    Raises:
        HostError: it is malformed.
    """
    (context_id,) = unpack(">I", payload[:4])
    return payload[4:].decode(errors="replace"), context_id


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack(">I", len(encoded)) + encoded
