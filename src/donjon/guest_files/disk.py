# SPDX-License-Identifier: Apache-2.0
"""Disks and parts of disks as the files that the parsers of guests' file systems read."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

_PIECE = 64 << 10
_KEPT = 512
_MOST = 4 << 20


class Source(Protocol):
    """Bytes that can be read at any place; `size` of them."""

    size: int

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes from `offset` on; fewer only at the end."""
        ...


class RemoteDisk:
    """A disk that somebody else reads for us: `fetch` an offset and a length, within the disk. Keeps what it read last.

    Small reads are rounded up to pieces of 64 KiB, of which 512 are kept; large ones pass by.
    """

    def __init__(self, size: int, fetch: Callable[[int, int], bytes]) -> None:
        self.size = size
        self._fetch = fetch
        self._pieces: OrderedDict[int, bytes] = OrderedDict()

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes from `offset` on; fewer only at the end."""
        end = min(offset + max(length, 0), self.size)
        parts = []
        while offset < end:
            if offset % _PIECE == 0 and end - offset >= 2 * _PIECE:
                part = self._fetch(offset, min(end - offset, _MOST))
            else:
                number, within = divmod(offset, _PIECE)
                part = self._piece(number)[within : within + end - offset]
            parts.append(part)
            offset += len(part)
        return b"".join(parts)

    def _piece(self, number: int) -> bytes:
        if number in self._pieces:
            self._pieces.move_to_end(number)
            return self._pieces[number]
        start = number * _PIECE
        piece = self._fetch(start, min(_PIECE, self.size - start))
        self._pieces[number] = piece
        if len(self._pieces) > _KEPT:
            self._pieces.popitem(last=False)
        return piece


class Part:
    """A stretch of a source, such as a partition."""

    def __init__(self, source: Source, offset: int, size: int) -> None:
        self.size = max(0, min(size, source.size - offset))
        self._source = source
        self._offset = offset

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes from `offset` on; fewer only at the end."""
        length = max(0, min(length, self.size - offset))
        return self._source.read_at(self._offset + offset, length)


class File:
    """A source with a position, as libyal's libraries read one."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._at = 0

    def read(self, length: int | None = None) -> bytes:
        """The next bytes."""
        data = self._source.read_at(self._at, self._source.size if length is None else length)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place."""
        self._at = offset + (0, self._at, self._source.size)[whence]
        return self._at

    def tell(self) -> int:
        """Where we are."""
        return self._at

    def get_size(self) -> int:
        """How many bytes there are."""
        return self._source.size
