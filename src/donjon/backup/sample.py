# SPDX-License-Identifier: Apache-2.0
"""Which blocks said to be unchanged are read and compared nevertheless: all of them, in turn, within some days.

Bitmaps and file times are hints. The blocks of a disk form a ring, on which every run goes on from where the last one
stopped, by as much as the time since then is of the whole round.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from donjon.backup.plan import Action, Run
from donjon.model.restore_point import Comparison

_DAY_S = 86_400
_LEAST_BYTES = 16 << 20
_MOST_STRETCHES = 64

Stretch = tuple[int, int]
"""First block, and the one behind the last."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Each block is compared within `days`; 0: never. `all`: every block in every run."""

    days: float = 30.0
    all: bool = False

    def count(self, blocks: int, block_size: int, elapsed_s: int) -> int:
        """How many of a disk's blocks to compare, so many seconds after the run before.

        A clock that was set back counts as if it had been set forward. Small disks are done in few runs.
        """
        if self.all:
            return blocks
        if self.days <= 0:
            return 0
        least = -(-_LEAST_BYTES // block_size)
        due = -(-blocks * abs(elapsed_s) // max(1, round(self.days * _DAY_S)))
        return min(blocks, max(least, due))


USUAL_SAMPLING = Sampling()


def choose_stretches(comparisons: Sequence[Comparison], blocks: int, count: int, now_s: int) -> list[Stretch]:
    """The `count` blocks whose last comparison is longest ago; ascending.

    Args:
        comparisons: of the restore point before; whatever they say, blocks of which they say nothing come first.
        blocks: that the disk has now.
        count: of blocks to compare.
        now_s: in seconds since 1970.
    """
    chosen: list[Stretch] = []
    # Where one run has compared the end of the ring and its beginning, the end came first.
    for tile in sorted(_tiles(comparisons, blocks, now_s), key=lambda tile: (tile.at, -tile.start)):
        taken = min(count, tile.blocks)
        if taken:
            chosen.append((tile.start, tile.start + taken))
        count -= taken
    return sorted(chosen)


def note_comparison(
    comparisons: Sequence[Comparison], blocks: int, compared: Iterable[Stretch], now_s: int
) -> tuple[Comparison, ...]:
    """What is known after these stretches were compared, too: at most 64 stretches that tile the disk.

    Where there are more, neighbours become one, as old as the older of them.
    """
    tiles = [Comparison(start, stop - start, now_s) for start, stop in compared if stop > start]
    fresh = sorted(tiles)
    tiles += [rest for tile in _tiles(comparisons, blocks, now_s) for rest in _without(tile, fresh)]
    return tuple(_merged(sorted(tiles)))


def compare_in(runs: Iterable[Run], stretches: Iterable[Stretch]) -> Iterator[Run]:
    """The runs of a plan, of which what would be kept within these stretches is compared. Both ascend."""
    ahead = deque(stretches)
    for run in runs:
        at, stop = run.start, run.start + run.blocks
        while ahead and ahead[0][1] <= at:
            ahead.popleft()
        if run.action is not Action.KEEP:
            yield run
            continue
        for first, last in ahead:
            if first >= stop:
                break
            if first > at:
                yield Run(at, first - at, Action.KEEP)
            at = max(first, at)
            yield Run(at, min(last, stop) - at, Action.COMPARE)
            at = min(last, stop)
        if at < stop:
            yield Run(at, stop - at, Action.KEEP)


def _tiles(comparisons: Sequence[Comparison], blocks: int, now_s: int) -> list[Comparison]:
    """What is known, cut or filled up to the disk as it is now.

    What was compared in the future was compared by another clock: as long ago as it seems to be ahead.
    """
    tiles: list[Comparison] = []
    end = 0
    for start, length, at in comparisons:
        if start != end or length <= 0 or len(tiles) == _MOST_STRETCHES:  # not written by us: nothing is known
            tiles, end = [], 0
            break
        if start < blocks:
            tiles.append(Comparison(start, min(length, blocks - start), max(0, min(at, 2 * now_s - at))))
        end = start + length
    if end < blocks:
        tiles.append(Comparison(end, blocks - end, 0))
    return tiles


def _without(tile: Comparison, taken: Sequence[Comparison]) -> Iterator[Comparison]:
    """What is left of a stretch."""
    at, stop = tile.start, tile.start + tile.blocks
    for start, length, _ in taken:
        if start + length <= at or start >= stop:
            continue
        if start > at:
            yield Comparison(at, start - at, tile.at)
        at = start + length
    if at < stop:
        yield Comparison(at, stop - at, tile.at)


def _merged(tiles: Iterable[Comparison]) -> list[Comparison]:
    merged: list[Comparison] = []
    for tile in tiles:
        if merged and merged[-1].at == tile.at:
            merged[-1] = _joined(merged[-1], tile)
        else:
            merged.append(tile)
    while len(merged) > _MOST_STRETCHES:
        gaps = [abs(left.at - right.at) for left, right in pairwise(merged)]
        at = gaps.index(min(gaps))
        merged[at : at + 2] = [_joined(merged[at], merged[at + 1])]
    return merged


def _joined(left: Comparison, right: Comparison) -> Comparison:
    return Comparison(left.start, left.blocks + right.blocks, min(left.at, right.at))
