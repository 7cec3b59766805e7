# SPDX-License-Identifier: Apache-2.0
"""What libyal's readers of Unix file systems have in common."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import Any

from donjon.errors import IntegrityError
from donjon.guest_files.file_systems.file_system import (
    PARSER_ERRORS,
    Attributes,
    Node,
    Range,
    data_ranges,
    why,
)

HOLE = 1
"""The flag of an extent that has no data, in all of libyal's libraries."""


class UnixNode:
    """A directory entry of libfsext or libfsxfs."""

    def __init__(self, entry: Any, name: str) -> None:
        self.name = name
        self._entry = entry

    def attributes(self) -> Attributes:
        """What stat(2) would tell."""
        entry = self._entry
        mode = entry.file_mode
        return Attributes(
            mode=mode,
            size=entry.size,
            mtime_ns=entry.get_modification_time_as_integer(),
            inode=entry.inode_number,
            uid=entry.owner_identifier,
            gid=entry.group_identifier,
            links=entry.number_of_links,
            target=self._target() if stat.S_ISLNK(mode) else "",
            device=self._device() if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else None,
        )

    def children(self) -> Iterator[Node | str]:
        """What the directory holds; instead of what cannot be read, the reason."""
        for number in range(self._entry.number_of_sub_file_entries):
            try:
                entry = self._entry.get_sub_file_entry(number)
                yield self._child(entry, entry.name)
            except PARSER_ERRORS as error:
                reason = why(error)
                yield "its name is not UTF-8" if "name" in reason else reason

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the file. Raises IntegrityError, OSError."""
        return read_exactly(self._entry, offset, length)

    def _ranges(self) -> list[Range]:
        entry = self._entry
        size = entry.size
        if not size:
            return []
        extents = (entry.get_extent(number) for number in range(entry.number_of_extents))
        return data_ranges(((length, bool(flags & HOLE)) for _, length, flags in extents), size)

    def _target(self) -> str:
        target = self._entry.symbolic_link_target
        return target if isinstance(target, str) else ""

    def _device(self) -> tuple[int, int]:
        major, minor = self._entry.device_number
        return major, minor

    def _child(self, entry: Any, name: str) -> Node:
        raise NotImplementedError


def read_exactly(entry: Any, offset: int, length: int) -> bytes:
    """Bytes of a file or stream of libyal's. Raises IntegrityError if there are fewer, OSError."""
    entry.seek(offset)
    parts = []
    while length:
        part = entry.read(length)
        if not part:
            raise IntegrityError("the file ends before its end")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
