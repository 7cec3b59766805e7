# SPDX-License-Identifier: Apache-2.0
"""Which blob holds which block of a disk, without holding a large disk's map in memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from types import TracebackType
from typing import Self

from donjon.repository.format.blob import ID_LENGTH
from donjon.repository.spool import Spool

_REPEAT_AT_ONCE = 1 << 13


class BlockMap:
    """The ids of a disk's blocks, in the order of the disk; all blocks but the last are `block_size` bytes long."""

    def __init__(self, size: int, block_size: int) -> None:
        self.size = size
        self.block_size = block_size
        self._ids = Spool()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __len__(self) -> int:
        """Number of blocks that have an id so far."""
        return len(self._ids) // ID_LENGTH

    @property
    def blocks(self) -> int:
        """Number of blocks that the disk has."""
        return -(-self.size // self.block_size)

    @property
    def complete(self) -> bool:
        """Whether every block has an id."""
        return len(self) == self.blocks

    def length_of(self, block: int) -> int:
        """Bytes in a block."""
        return min(self.block_size, self.size - block * self.block_size)

    def append(self, ids: bytes, times: int = 1) -> None:
        """Say which blobs hold the next blocks: packed ids, all of them `times` over."""
        while times > 0:
            count = min(times, _REPEAT_AT_ONCE)
            self._ids.append(ids * count)
            times -= count

    def ids(self, start: int, stop: int) -> bytes:
        """The packed ids of blocks start .. stop - 1."""
        return self._ids.read(start * ID_LENGTH, (stop - start) * ID_LENGTH)

    def parts(self) -> Iterator[bytes]:
        """All ids, packed, a piece at a time."""
        return self._ids.parts()

    def runs(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, int, bytes]]:
        """(first block, number of blocks, id) for each stretch of one blob repeated, in order."""
        stop = self.blocks if stop is None else stop
        for first in range(start, stop, _REPEAT_AT_ONCE):
            packed = self.ids(first, min(first + _REPEAT_AT_ONCE, stop))
            at = first
            for blob, group in groupby(packed[i : i + ID_LENGTH] for i in range(0, len(packed), ID_LENGTH)):
                count = sum(1 for _ in group)
                yield at, count, blob
                at += count

    def equals(self, other: BlockMap) -> bool:
        """Whether both disks have the same content in blocks of the same size."""
        alike = (self.size, self.block_size, len(self)) == (other.size, other.block_size, len(other))
        return alike and all(mine == theirs for mine, theirs in zip(self.parts(), other.parts(), strict=True))

    def close(self) -> None:
        """Give the map up."""
        self._ids.close()
