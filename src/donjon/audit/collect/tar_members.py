# SPDX-License-Identifier: Apache-2.0
"""Regular files of a tar that may be hostile: nothing is written, links lead nowhere, and all sizes have limits.

Source: POSIX pax(1), "ustar Interchange Format" and "pax Extended Header"; GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import zstandard
from msgspec import Struct

from donjon.errors import IntegrityError

_BLOCK = 512
_PIECE = 1 << 16
_NAME_BYTES = 1 << 16
_MAGICS = {b"\x1f\x8b": "gzip", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)


class Limits(Struct, frozen=True):
    """How much of an archive is read before it is taken for a bomb; bytes after decompression."""

    member: int = 16 << 20
    total: int = 512 << 20
    count: int = 200_000


class Member(NamedTuple):
    """An entry. `kind` is its type flag: "0" for a regular file, whose content is here unless it was not wanted."""

    name: str
    kind: str
    content: bytes


def members(file: BinaryIO, limits: Limits, *, cut_large: bool = False) -> Iterator[Member]:
    """The entries of a tar, plain or compressed with gzip, xz or zstd, in their order.

    Args:
        file: read from where it stands to the end of the archive.
        limits: what is too much.
        cut_large: leave the content of files over `limits.member` out instead of refusing the archive.

    Raises:
        IntegrityError: it is no tar, cut short, or larger than the limits.
    """
    stream = _Stream(file, limits.total)
    name, size = "", -1
    for count in range(limits.count * 2):
        header = stream.exactly(_BLOCK)
        if not header.strip(b"\0"):
            return
        kind, length = _kind(header), _number(header[124:136])
        _check_sum(header)
        if kind in "Lx":
            extension = stream.file(length, _NAME_BYTES)
            name, size = (_long(extension), size) if kind == "L" else _extended(extension, name, size)
            continue
        length = size if size >= 0 else length
        content = b""
        if kind in "07" and not (cut_large and length > limits.member):
            content = stream.file(length, limits.member)
        elif kind in "07gK":
            stream.skip(length)
        yield Member(name or _name(header), "0" if kind == "7" else kind, content)
        if count >= limits.count:
            break
        name, size = "", -1
    raise IntegrityError(f"cannot read the archive: it holds more than {limits.count} files")


class _Stream:
    """The archive's bytes, decompressed, up to a limit."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        buffered = io.BufferedReader(file) if isinstance(file, io.RawIOBase) else file
        start = buffered.read(6)
        whole = _Joined(start, buffered)
        kind = next((kind for magic, kind in _MAGICS.items() if start.startswith(magic)), "")
        self._file = _decompressed(whole, kind)
        self._left = limit

    def exactly(self, size: int) -> bytes:
        """The next bytes. Raises IntegrityError: there are not so many, or it is too many."""
        self._left -= size
        if self._left < 0:
            raise IntegrityError("cannot read the archive: it is far too large")
        pieces = bytearray()
        try:
            while len(pieces) < size and (piece := self._file.read(min(size - len(pieces), _PIECE))):
                pieces += piece
        except _BROKEN as error:
            raise IntegrityError(f"cannot read the archive: {error}") from error
        if len(pieces) < size:
            raise IntegrityError("cannot read the archive: it is cut short")
        return bytes(pieces)

    def file(self, size: int, limit: int) -> bytes:
        """The content of a member, without its padding."""
        if size > limit:
            raise IntegrityError(f"cannot read the archive: a file of it is larger than {limit} bytes")
        return self.exactly(size + -size % _BLOCK)[:size]

    def skip(self, size: int) -> None:
        """Go on behind a member."""
        left = size + -size % _BLOCK
        while left > 0:
            left -= len(self.exactly(min(left, _PIECE)))


class _Joined(io.RawIOBase):
    """What was read of a file already, and the rest of it."""

    def __init__(self, start: bytes, rest: BinaryIO) -> None:
        self._start = start
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        piece = self._start[: len(buffer)] or self._rest.read(len(buffer))
        self._start = self._start[len(piece) :]
        buffer[: len(piece)] = piece
        return len(piece)


def _decompressed(file: _Joined, kind: str) -> BinaryIO:
    buffered = io.BufferedReader(file, _PIECE)
    if kind == "gzip":
        return gzip.GzipFile(fileobj=buffered)  # type: ignore[return-value]
    if kind == "xz":
        return lzma.LZMAFile(buffered)  # type: ignore[return-value]
    if kind == "zstd":
        return zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(buffered)
    return buffered


def _kind(header: bytes) -> str:
    flag = chr(header[156])
    return "0" if flag == "\0" else flag


def _check_sum(header: bytes) -> None:
    said = _number(header[148:156])
    if said != sum(header[:148]) + 8 * ord(" ") + sum(header[156:]):
        raise IntegrityError("cannot read the archive: it is no tar, or damaged")


def _number(octal: bytes) -> int:
    digits = octal.strip(b" \0")
    if octal[0] == 0x80:  # GNU: base 256
        return int.from_bytes(octal[1:], "big")
    if not digits.isdigit() or digits.strip(b"01234567"):
        if not digits:
            return 0
        raise IntegrityError("cannot read the archive: it is no tar, or damaged")
    return int(digits, 8)


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return as_text(prefix + b"/" + name if prefix else name)


def _long(extension: bytes) -> str:
    return as_text(extension.split(b"\0", 1)[0])


def _extended(extension: bytes, name: str, size: int) -> tuple[str, int]:
    """Name and size out of a pax header: records of length, key and value."""
    while extension:
        digits, _, _ = extension.partition(b" ")
        if not digits.isdigit() or len(digits) > 9 or not len(digits) < int(digits) <= len(extension):
            raise IntegrityError("cannot read the archive: it is no tar, or damaged")
        key, _, value = extension[len(digits) + 1 : int(digits)].removesuffix(b"\n").partition(b"=")
        if key == b"path":
            name = as_text(value)
        elif key == b"size":
            size = _number(b"0" + b"%o" % int(value)) if value.isdigit() and len(value) < 16 else -1
        extension = extension[int(digits) :]
    return name, size


def as_text(raw: bytes) -> str:
    """Text of bytes from a host, whatever they are: what is not UTF-8 is shown in hexadecimal."""
    return raw.decode("utf-8", "backslashreplace")
