# SPDX-License-Identifier: Apache-2.0
"""What a capture hands out for each disk: bytes that hold still, and what is known of them beforehand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from donjon.model.extent import Extent


class BlockSource(Protocol):
    """A disk that can be read at any place, from several threads at once."""

    @property
    def size(self) -> int:
        """Of the disk, in bytes."""
        ...

    def extents(self) -> Iterator[Extent]:
        """Ascending and tiling [0, size); CLEAN means: as in the restore point the source was opened against.

        Raises:
            HostError: the disk cannot be examined.
        """
        ...

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the disk's bytes from `offset` on. Thread-safe.

        Raises:
            HostError: the disk cannot be read there, or ends before the buffer does.
        """
        ...
