# SPDX-License-Identifier: Apache-2.0
"""What is known of a stretch of a disk: holds data, reads as zeros, or has not changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from typing import NamedTuple


class Kind(Enum):
    """What is known of an extent, without having read it."""

    DATA = "data"
    ZERO = "zero"
    CLEAN = "clean"


class Extent(NamedTuple):
    """A stretch of a disk, in bytes."""

    offset: int
    length: int
    kind: Kind

    @property
    def end(self) -> int:
        """First byte behind the extent."""
        return self.offset + self.length


def check_cover(extents: Iterable[Extent], size: int) -> Iterator[Extent]:
    """Pass extents on while proving that they tile [0, size): ascending, no gap, no overlap, none empty.

    Raises:
        ValueError: they do not; names the first offset at fault.
    """
    end = 0
    for extent in extents:
        if extent.offset != end or extent.length <= 0:
            raise ValueError(f"extents do not tile the disk: expected offset {end}, got {extent}")
        end = extent.end
        yield extent
    if end != size:
        raise ValueError(f"extents end at {end}, the disk at {size}")
