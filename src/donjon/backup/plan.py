# SPDX-License-Identifier: Apache-2.0
"""What to do with each block of a disk, from what is known of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from typing import NamedTuple

from donjon.model.extent import Extent, Kind, check_cover


class Action(Enum):
    """What to do with a block. COMPARE: keep it, and read it to see whether that is right."""

    READ = "read"
    ZERO = "zero"
    KEEP = "keep"
    COMPARE = "compare"


class Run(NamedTuple):
    """`blocks` blocks from `start` on, and what to do with them."""

    start: int
    blocks: int
    action: Action


_ACTIONS = {Kind.DATA: Action.READ, Kind.ZERO: Action.ZERO, Kind.CLEAN: Action.KEEP}


def plan_runs(extents: Iterable[Extent], size: int, block_size: int) -> Iterator[Run]:
    """Turn what is known of a disk into what to do with each of its blocks.

    A block is read unless all of it is known to be zero, or all of it is clean. When in doubt
    (part zero, part clean) it is read: a needless read costs time, a wrong KEEP costs data.

    Args:
        extents: ascending and tiling the disk; any length, not aligned to blocks.
        size: of the disk, in bytes.
        block_size: in bytes.

    Yields:
        Runs that cover blocks 0 .. ceil(size / block_size) - 1, each once, in order; neighbours differ in action.

    Raises:
        ValueError: the extents do not tile [0, size).
    """
    run: Run | None = None
    for piece in _pieces(check_cover(extents, size), size, block_size):
        if run is None:
            run = piece
        elif piece.action is run.action:
            run = Run(run.start, run.blocks + piece.blocks, run.action)
        else:
            yield run
            run = piece
    if run is not None:
        yield run


def _pieces(extents: Iterable[Extent], size: int, block_size: int) -> Iterator[Run]:
    """Whole blocks of each extent, and one READ for every block that extents of several kinds share."""
    done = 0  # blocks planned so far
    shared: set[Kind] = set()  # what is known of the block at `done`, where an earlier extent ended within it
    for extent in extents:
        end = -(-size // block_size) if extent.end == size else extent.end // block_size
        first = done
        if shared:
            shared.add(extent.kind)
            if end <= done:
                continue
            yield Run(done, 1, _ACTIONS[extent.kind] if len(shared) == 1 else Action.READ)
            first = done + 1
        if end > first:
            yield Run(first, end - first, _ACTIONS[extent.kind])
        done = max(end, done)
        shared = {extent.kind} if extent.end > done * block_size else set()
