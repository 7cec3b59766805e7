# SPDX-License-Identifier: Apache-2.0
"""Disks in memory that an NBD server can export."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby
from threading import Lock

from donjon.errors import HostError
from donjon.nbd.protocol import Allocation
from donjon.nbd.server import ALLOCATION

BLOCK = 64 * 1024


class MemoryExport:
    """A disk in memory: knows which of its blocks are zero, and remembers what was done to it.

    `broken` are offsets of bytes that can be neither read nor written.
    """

    def __init__(
        self, content: bytes, *, read_only: bool = True, context: str | None = None, broken: Iterable[int] = ()
    ) -> None:
        self.content = bytearray(content)
        self.read_only = read_only
        self.contexts: tuple[str, ...] = (ALLOCATION, *([context] if context else []))
        self.broken = frozenset(broken)
        self.reads: list[tuple[int, int]] = []
        self.flushed: bytes | None = None
        self.before_read: Callable[[int], None] = lambda _: None
        self._turn = Lock()

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.content)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Copy from memory."""
        self.before_read(offset)
        self._check(offset, len(buffer))
        with self._turn:
            self.reads.append((offset, len(buffer)))
        buffer[:] = memoryview(self.content)[offset : offset + len(buffer)]

    def block_status(self, context: str, offset: int, length: int) -> Iterable[tuple[int, int]]:
        """Zero blocks are holes; in another context every odd block has flag 1."""
        kinds = (
            (min(start + BLOCK, self.size) - max(start, offset), self._flags(context, start))
            for start in range(offset // BLOCK * BLOCK, offset + length, BLOCK)
        )
        for flags, same in groupby(kinds, key=lambda kind: kind[1]):
            yield sum(size for size, _ in same), flags

    def write(self, offset: int, buffer: memoryview) -> None:
        """Copy to memory."""
        self._check(offset, len(buffer))
        self.content[offset : offset + len(buffer)] = buffer

    def flush(self) -> None:
        """Remember what there was."""
        self.flushed = bytes(self.content)

    def _flags(self, context: str, start: int) -> int:
        if context != ALLOCATION:
            return start // BLOCK % 2
        return 0 if any(self.content[start : start + BLOCK]) else int(Allocation.HOLE | Allocation.ZERO)

    def _check(self, offset: int, length: int) -> None:
        if bad := [at for at in self.broken if offset <= at < offset + length]:
            raise HostError(f"cannot access the disk at offset {min(bad)}: it is broken")
