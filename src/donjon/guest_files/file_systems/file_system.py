# SPDX-License-Identifier: Apache-2.0
"""A guest's file system, as the reader walks it: what every kind of it offers."""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from donjon.errors import DonjonError
from donjon.guest_files.messages import MOST_RANGES

PARSER_ERRORS = (
    DonjonError,
    *(OSError, ValueError, MemoryError, OverflowError, RuntimeError),
    *(struct.error, LookupError, TypeError, AttributeError),  # the libraries give None where something should be
)
"""What reading a damaged file system may end in: our own errors, and those of the libraries."""

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Attributes:
    """What stat(2) tells of a file; times in nanoseconds since 1970."""

    mode: int
    size: int
    mtime_ns: int
    inode: int
    uid: int = 0
    gid: int = 0
    links: int = 1
    target: str = ""
    device: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Extras:
    """What else belongs to a file; `lacks` says what of it cannot be read."""

    xattrs: dict[str, bytes] = field(default_factory=dict)
    ranges: list[Range] = field(default_factory=list)
    lacks: list[str] = field(default_factory=list)
    unreadable: str = ""


class Node(Protocol):
    """A file, directory, link or device. Everything here may raise one of PARSER_ERRORS."""

    name: str

    def attributes(self) -> Attributes:
        """What stat(2) would tell."""
        ...

    def extras(self) -> Extras:
        """Extended attributes, and where a file has data."""
        ...

    def children(self) -> Iterator[Node | str]:
        """What a directory holds; instead of what cannot be read, the reason."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of a file, exactly so many unless it ends."""
        ...


class FileSystem(Protocol):
    """One of a kind that can be read. `label` is the user's name for it, `note` what a reader should know."""

    label: str
    note: str

    def root(self) -> Node:
        """The top directory."""
        ...


def why(error: BaseException) -> str:
    """A parser's complaint, the first words of it."""
    text = str(error) or type(error).__name__
    if isinstance(error, DonjonError):
        return text
    return text.removeprefix(text.partition(": ")[0] + ": ").partition(". ")[0][:200] or text[:200]


def data_ranges(extents: Iterator[tuple[int, bool]], size: int) -> list[Range]:
    """Where a file has data, from the lengths of its extents and whether each is a hole.

    A file in very many pieces is all data: the list has to stay short.
    """
    ranges: list[Range] = []
    at = 0
    for length, hole in extents:
        end = min(at + length, size)
        if not hole and end > at:
            if ranges and sum(ranges[-1]) == at:
                ranges[-1] = (ranges[-1][0], end - ranges[-1][0])
            else:
                ranges.append((at, end - at))
        at = end
        if len(ranges) > MOST_RANGES:
            return [(0, size)]
    return ranges


def is_file(mode: int) -> bool:
    """Whether a mode is a regular file's."""
    return stat.S_ISREG(mode)


def is_device(mode: int) -> bool:
    """Whether a mode is a device node's."""
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
