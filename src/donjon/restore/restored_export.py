# SPDX-License-Identifier: Apache-2.0
"""A disk of a restore point as an NBD server exports it: read-only, and its zeros known without reading them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from donjon.nbd.export import ALLOCATION
from donjon.nbd.protocol import Allocation
from donjon.repository.format.blob import ID_LENGTH, blob_id
from donjon.repository.reader import Image

_BLOCKS_AT_ONCE = 1 << 16


class RestoredExport:
    """Follows `donjon.nbd.export.Export`; the image stays its owner's to close."""

    def __init__(self, image: Image) -> None:
        self._image = image
        block_map = image.block_map
        self._zero = _packed(blob_id(bytes(block_map.block_size)))
        self._last_zero = _packed(blob_id(bytes(block_map.length_of(block_map.blocks - 1)))) if image.size else None

    @property
    def size(self) -> int:
        """In bytes."""
        return self._image.size

    @property
    def read_only(self) -> bool:
        """Always."""
        return True

    @property
    def contexts(self) -> tuple[str, ...]:
        """Where zeros are."""
        return (ALLOCATION,)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer with bytes that were proven. Raises IntegrityError, StoreError."""
        buffer[:] = self._image.read(offset, len(buffer))

    def block_status(self, context: str, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Holes that read as zeros, and data; as many stretches as fit what was asked for.

        Raises:
            ValueError: another context than `contexts` has.
        """
        if context != ALLOCATION:
            raise ValueError(f"no context {context!r}")
        size = self._image.block_map.block_size
        end = min(offset + length, self.size)
        pending, pending_zero = 0, False
        for start, stop, is_zero in self._runs(offset // size, -(-end // size)):
            stretch = min(stop * size, end) - max(start * size, offset)
            if pending and is_zero != pending_zero:
                yield pending, _flags(pending_zero)
                pending = 0
            pending, pending_zero = pending + stretch, is_zero
        if pending:
            yield pending, _flags(pending_zero)

    def _runs(self, start: int, stop: int) -> Iterator[tuple[int, int, bool]]:
        """(first block, block behind the last, whether all are zeros) of blocks start .. stop - 1."""
        for first in range(start, stop, _BLOCKS_AT_ONCE):
            last = min(first + _BLOCKS_AT_ONCE, stop)
            zeros = self._zeros(first, last)
            edges = [0, *(np.flatnonzero(zeros[1:] != zeros[:-1]) + 1).tolist(), last - first]
            for begin, end in pairwise(edges):
                yield first + begin, first + end, bool(zeros[begin])

    def _zeros(self, start: int, stop: int) -> NDArray[np.bool_]:
        """Which of the blocks start .. stop - 1 are all zeros."""
        block_map = self._image.block_map
        ids = np.frombuffer(block_map.ids(start, stop), dtype=np.uint64).reshape(-1, ID_LENGTH // 8)
        zeros: NDArray[np.bool_] = (ids == self._zero).all(axis=1)
        if stop == block_map.blocks:
            zeros[-1] = (ids[-1] == self._last_zero).all()
        return zeros


def _packed(blob: bytes) -> NDArray[np.uint64]:
    return np.frombuffer(blob, dtype=np.uint64)


def _flags(is_zero: bool) -> int:
    return int(Allocation.HOLE | Allocation.ZERO) if is_zero else 0
