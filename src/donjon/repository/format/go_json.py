# SPDX-License-Identifier: Apache-2.0
"""JSON as Go writes it, byte for byte: what trees need, because a tree's name is the hash of its text.

Source: Go encoding/json (HTML escaping, struct order), strconv.Quote, time.RFC3339Nano; restic node.go, MarshalJSON.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from donjon.errors import IntegrityError
from donjon.repository.format.blob import Buffer

T = TypeVar("T")

_HTML = (
    (b"<", rb"\u003c"),
    (b">", rb"\u003e"),
    (b"&", rb"\u0026"),
    ("\u2028".encode(), rb"\u2028"),
    ("\u2029".encode(), rb"\u2029"),
)
_QUOTED = {'"': '\\"', "\\": "\\\\", "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_QUOTED["\v"] = "\\v"
_UNQUOTED = {value[1]: key.encode() for key, value in _QUOTED.items()} | {"'": b"'"}
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\'\"])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3}))|(\\)", re.ASCII
)


def encode(value: Any) -> bytes:
    """Compact JSON with Go's escaping; fields in the order in which the type declares them."""
    text = msgspec.json.encode(value)
    for character, escape in _HTML:
        text = text.replace(character, escape)
    return text


def decode(text: Buffer, type: type[T], what: str) -> T:
    """The value of a JSON text; `what` names it in the message.

    Raises:
        IntegrityError: it does not say what `type` needs, or is not JSON.
    """
    try:
        return msgspec.json.decode(text, type=type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(f"cannot read {what}: {error}") from error


def quote_name(name: str) -> str:
    """A file name as it stands in a node: strconv.Quote without the quotes.

    Bytes that are not UTF-8 are expected as Python's surrogate escapes.
    """
    return "".join(map(_quote_character, name))


def _quote_character(character: str) -> str:
    if (quoted := _QUOTED.get(character)) is not None:
        return quoted
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def unquote_name(quoted: str) -> str:
    """The file name that `quoted` stands for.

    Raises:
        IntegrityError: it is not what strconv.Quote writes.
    """
    parts = []
    end = 0
    for match in _ESCAPE.finditer(quoted):
        parts.append(quoted[end : match.start()].encode("utf-8", "surrogatepass"))
        parts.append(_unescape(match))
        end = match.end()
    parts.append(quoted[end:].encode("utf-8", "surrogatepass"))
    return b"".join(parts).decode("utf-8", "surrogateescape")


def _unescape(match: re.Match[str]) -> bytes:
    letter, byte, short, long, octal, stray = match.groups()
    if letter:
        return _UNQUOTED[letter]
    try:
        if byte or octal:
            return bytes([int(byte, 16) if byte else int(octal, 8)])
        if short or long:
            return chr(int(short or long, 16)).encode("utf-8")
    except (ValueError, OverflowError):
        pass
    raise IntegrityError(f"cannot read a name in a tree: {stray or match.group()!r} is no escape sequence")


_FIRST_NS = -62_135_596_800 * 10**9  # 0001-01-01T00:00:00Z
_LAST_NS = 253_402_300_800 * 10**9 - 1  # the last of 9999


def format_time(when: datetime) -> str:
    """A moment as time.RFC3339Nano has it, in UTC: no trailing zeros in the fraction.

    Raises:
        ValueError: `when` has no time zone.
    """
    if when.tzinfo is None:
        raise ValueError("a time without a zone")
    when = when.astimezone(UTC)
    fraction = f".{when.microsecond:06d}".rstrip("0").rstrip(".")
    return f"{when.year:04d}-{when:%m-%dT%H:%M:%S}{fraction}Z"


def format_time_ns(nanoseconds: int) -> str:
    """The same, from nanoseconds since 1970; what is not within years 1 to 9999 becomes the nearest that is."""
    seconds, fraction = divmod(min(max(nanoseconds, _FIRST_NS), _LAST_NS), 10**9)
    whole = datetime.fromtimestamp(seconds, UTC)
    digits = f".{fraction:09d}".rstrip("0").rstrip(".")
    return f"{whole.year:04d}-{whole:%m-%dT%H:%M:%S}{digits}Z"


_TIME = re.compile(r"(\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d)(?:\.(\d{1,12}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def parse_time(text: str) -> datetime:
    """The moment, to the microsecond, in UTC.

    Raises:
        IntegrityError: this is not RFC 3339.
    """
    if match := _TIME.fullmatch(text):
        whole, fraction, zone = match.groups()
        try:
            when = datetime.fromisoformat(whole + ("+00:00" if zone in "Zz" else zone))
            when = when.replace(microsecond=int((fraction or "0").ljust(6, "0")[:6]))
            return when.astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise IntegrityError(f"cannot read a time: {text[:40]!r} is not RFC 3339")
