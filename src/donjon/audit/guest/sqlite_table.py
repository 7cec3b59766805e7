# SPDX-License-Identifier: Apache-2.0
"""The rows of one table of an SQLite database that may be forged: read by ourselves, no statement of it is ever run.

Source: sqlite.org/fileformat2.html, "B-tree Pages", "Record Format".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

Value = int | float | bytes | str | None

_MAGIC = b"SQLite format 3\0"
_LEAF, _INTERIOR = 13, 5
_SIZES = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0)
_MOST_ROWS = 200_000


def rows_of(content: bytes, table: str) -> Iterator[list[Value]]:
    """The rows of a table, each a list of its columns. Raises ValueError: the database makes no sense."""
    try:
        database = _Database(content)
        for row in database.rows(1):
            if row[:2] == ["table", table] and isinstance(row[3], int):
                yield from database.rows(row[3])
    except (struct.error, IndexError) as error:
        raise ValueError("the database is cut short") from error


class _Database:
    def __init__(self, content: bytes) -> None:
        if not content.startswith(_MAGIC):
            raise ValueError("it is no SQLite database")
        size = int.from_bytes(content[16:18], "big")
        self._page_size = 65536 if size == 1 else size
        if self._page_size < 512 or int.from_bytes(content[56:60], "big") != 1:
            raise ValueError("a database with odd pages, or whose text is no UTF-8")
        self._usable = self._page_size - content[20]
        self._content = content

    def rows(self, root: int) -> Iterator[list[Value]]:
        """The rows of the table whose tree begins at a page, in order."""
        pages, seen, rows = [root], set(), 0
        while pages:
            number = pages.pop()
            if number in seen:
                raise ValueError("its pages go round in a circle")
            seen.add(number)
            page, at = self._page(number), 100 if number == 1 else 0
            kind, cells = page[at], int.from_bytes(page[at + 3 : at + 5], "big")
            first = at + (12 if kind == _INTERIOR else 8)
            starts = [struct.unpack_from(">H", page, first + 2 * cell)[0] for cell in range(cells)]
            if kind == _INTERIOR:
                children = [struct.unpack_from(">I", page, start)[0] for start in starts]
                pages += reversed([*children, struct.unpack_from(">I", page, at + 8)[0]])
            elif kind == _LEAF:
                rows += cells
                if rows > _MOST_ROWS:
                    raise ValueError("it has too many rows")
                for start in starts:
                    yield _record(self._payload(page, start))
            else:
                raise ValueError("a page that is none of a table")

    def _page(self, number: int) -> bytes:
        page = self._content[(number - 1) * self._page_size : number * self._page_size]
        if number < 1 or len(page) < self._page_size:
            raise ValueError("a page that is not there")
        return page

    def _payload(self, page: bytes, start: int) -> bytes:
        """The content of a cell; what does not fit is in a chain of overflow pages."""
        length, at = _varint(page, start)
        _, at = _varint(page, at)
        if length > len(self._content):
            raise ValueError("a row that is longer than the database")
        here = length
        if length > self._usable - 35:
            least = (self._usable - 12) * 32 // 255 - 23
            here = least + (length - least) % (self._usable - 4)
            here = here if here <= self._usable - 35 else least
        parts, left = [page[at : at + here]], length - here
        following = struct.unpack_from(">I", page, at + here)[0] if left else 0
        while left > 0:
            more = self._page(following)
            following = struct.unpack_from(">I", more)[0]
            parts.append(more[4 : 4 + min(left, self._usable - 4)])
            left -= self._usable - 4
        return b"".join(parts)


def _record(payload: bytes) -> list[Value]:
    header, at = _varint(payload, 0)
    kinds = []
    while at < header:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    values: list[Value] = []
    for kind in kinds:
        size = _SIZES[kind] if kind < 12 else (kind - 12) // 2
        part = payload[at : at + size]
        if len(part) < size:
            raise ValueError("a row that is cut short")
        values.append(_value(kind, part))
        at += size
    return values


def _value(kind: int, part: bytes) -> Value:
    if kind == 0:
        return None
    if kind == 7:
        return float(struct.unpack(">d", part)[0])
    if kind in {8, 9}:
        return kind - 8
    if kind < 12:
        return int.from_bytes(part, "big", signed=True)
    return part.decode("utf-8", "replace") if kind % 2 else part


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of 7 bits to the byte, big end first, 9 bytes at most; and where it ends."""
    value = 0
    for count in range(9):
        byte = data[at + count]
        if count == 8:
            return value << 8 | byte, at + 9
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + count + 1
    raise AssertionError("unreachable")
