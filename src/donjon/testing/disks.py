# SPDX-License-Identifier: Apache-2.0
"""Disks of guests in memory, with bitmaps of what was written since when, and moments of them to be served as NBD."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from threading import Lock

from donjon.nbd.protocol import Allocation
from donjon.nbd.server import ALLOCATION

BLOCK = 64 * 1024
"""What a bit stands for, in bytes, as with QEMU."""

_HOLE = int(Allocation.HOLE | Allocation.ZERO)


class FakeDisk:
    """A disk that a guest writes to. Thread-safe.

    Attributes:
        bitmaps: the blocks written to since, by the name of the bitmap.
        broken: bitmaps that were in use when the guest's process was killed.
    """

    def __init__(self, content: bytes) -> None:
        self.content = bytearray(content)
        self.bitmaps: dict[str, set[int]] = {}
        self.broken: set[str] = set()
        self._turn = Lock()

    def write(self, offset: int, data: bytes) -> None:
        """By the guest."""
        if offset < 0 or offset + len(data) > len(self.content):
            raise ValueError(f"the disk ends at {len(self.content)}")
        with self._turn:
            self.content[offset : offset + len(data)] = data
            touched = range(offset // BLOCK, -(-(offset + len(data)) // BLOCK)) if data else range(0)
            for name, blocks in self.bitmaps.items():
                if name not in self.broken:
                    blocks.update(touched)

    def resize(self, size: int) -> None:
        """By the host; what is new is zero and counts as written."""
        with self._turn:
            before = len(self.content)
            self.content = self.content[:size] + bytes(max(0, size - before))
            for blocks in self.bitmaps.values():
                blocks.update(range(before // BLOCK, -(-size // BLOCK)))

    def moment(self, target: str, since: str | None, new: str | None) -> Moment:
        """What there is now; from now on, writes are told under the name `new`."""
        with self._turn:
            dirty = None if since is None else frozenset(self.bitmaps[since])
            if new is not None:
                self.bitmaps[new] = set()
            return Moment(bytes(self.content), target, dirty)

    def break_bitmaps(self) -> None:
        """As when the process that kept them was killed."""
        self.broken.update(self.bitmaps)

    def has_sound(self, name: str) -> bool:
        """Whether there is such a bitmap, and it can be relied on."""
        return name in self.bitmaps and name not in self.broken

    def drop(self, name: str) -> None:
        """Delete a bitmap, if there is one."""
        self.bitmaps.pop(name, None)
        self.broken.discard(name)


class Moment:
    """An export: a disk as it was, and the blocks that were dirty then; None if nobody asked for them."""

    read_only = True

    def __init__(self, content: bytes, target: str, dirty: frozenset[int] | None) -> None:
        self._content = memoryview(content)
        self._dirty = dirty
        self.contexts: tuple[str, ...] = (ALLOCATION,)
        if dirty is not None:
            self.contexts += (f"qemu:dirty-bitmap:backup-{target}",)

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self._content)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Copy from memory."""
        buffer[:] = self._content[offset : offset + len(buffer)]

    def block_status(self, context: str, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Blocks of zeros are holes; dirty ones have flag 1."""
        flags = self._allocation if context == ALLOCATION else self._is_dirty
        for flag, size in _merged(offset, min(offset + length, self.size), flags):
            yield size, flag

    def _allocation(self, block: int) -> int:
        piece = self._content[block * BLOCK : (block + 1) * BLOCK]
        return 0 if any(bytes(piece)) else _HOLE

    def _is_dirty(self, block: int) -> int:
        return int(self._dirty is not None and block in self._dirty)


def _merged(start: int, end: int, flags: Callable[[int], int]) -> Iterator[tuple[int, int]]:
    """Flags and bytes of the stretches between two offsets."""
    pieces = (
        (flags(block), min((block + 1) * BLOCK, end) - max(block * BLOCK, start))
        for block in range(start // BLOCK, -(-end // BLOCK))
    )
    for flag, same in groupby(pieces, key=lambda piece: piece[0]):
        yield flag, sum(size for _, size in same)
