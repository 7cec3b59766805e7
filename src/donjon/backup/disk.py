# SPDX-License-Identifier: Apache-2.0
"""One captured disk becomes one of a restore point; a change map that turns out to be wrong is not believed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from donjon.backup.earlier import Earlier
from donjon.backup.image import ChangedUnnoticedError, ImageStats, choose_block_size, store_image
from donjon.backup.method import CapturedDisk
from donjon.backup.sample import Sampling, choose_stretches, note_comparison
from donjon.model.block_source import BlockSource
from donjon.model.extent import Extent, Kind
from donjon.model.progress import Progress
from donjon.model.restore_point import Comparison, DiskPoint
from donjon.repository.block_map import BlockMap
from donjon.repository.format.blob import BlobType
from donjon.repository.repository import Repository
from donjon.repository.writer import Writer
from donjon.restore_points import disk_path, save_disk

_WRONG = "a block that was said to be unchanged had changed"
_DOUBTED = "what was known of another disk of the VM turned out to be wrong"


@dataclass(frozen=True, slots=True)
class DiskReport:
    """What became of a disk; sizes in bytes, as in ImageStats. `reason` says what was known beforehand.

    `mismatch`: what was known was wrong, as a comparison showed, so everything was read.
    """

    target: str
    size: int
    read: int
    zero: int
    kept: int
    added: int
    stored: int
    reason: str
    compared: int = 0
    mismatch: bool = False


class StoredDisk(NamedTuple):
    """A disk that is in the repository; `tree` is the id of its directory, `block_map` the caller's to close."""

    point: DiskPoint
    report: DiskReport
    tree: bytes
    block_map: BlockMap
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DiskStorer:
    """Stores the disks of one VM that was captured at `taken_at`."""

    vm_name: str
    writer: Writer
    repository: Repository
    earlier: Earlier
    sampling: Sampling
    taken_at: datetime
    progress: Progress

    def store(self, captured: CapturedDisk, shown_as: str, *, doubted: bool = False) -> StoredDisk:
        """Store a disk, compare some of what is said to be unchanged, and read all if it is not.

        `shown_as` is its name in the progress; what is `doubted` is read in full at once.

        Raises:
            HostError: it cannot be read.
            StoreError: the repository cannot be written.
        """
        target, size = captured.disk.target, captured.source.size
        previous = self.earlier.maps.get(target)
        block_size = previous.block_size if previous else choose_block_size(size)
        blocks = -(-size // block_size)
        known = self._comparisons(target)
        now_s = int(self.taken_at.timestamp())
        compare = choose_stretches(known, blocks, self._count(blocks, block_size), now_s)
        mismatch = None
        self.progress.begin(shown_as, size)
        try:
            if doubted:
                block_map, stats = self._read_all(captured, block_size)
            else:
                block_map, stats = self._store_image(captured.source, block_size, previous, compare)
        except ChangedUnnoticedError as error:
            mismatch = error
            self.progress.begin(shown_as, size)
            block_map, stats = self._read_all(captured, block_size)
        try:
            tree = self._save(captured, block_map)
        except BaseException:
            block_map.close()
            raise
        is_all_compared = stats.kept == stats.compared
        comparisons = note_comparison(known, blocks, [(0, blocks)] if is_all_compared else compare, now_s)
        point = _point(
            captured, disk_path(self.vm_name, target), block_size, comparisons, is_wrong=mismatch is not None
        )
        notes = (_explain(mismatch, captured, block_size, known),) if mismatch else ()
        reason = _WRONG if mismatch else _DOUBTED if doubted else captured.reason
        return StoredDisk(point, _report(captured, stats, reason, is_wrong=point.mismatch), tree, block_map, notes)

    def _comparisons(self, target: str) -> tuple[Comparison, ...]:
        disk = self.earlier.manifest.disk(target) if self.earlier.manifest else None
        return disk.comparisons if disk else ()

    def _count(self, blocks: int, block_size: int) -> int:
        if self.earlier.manifest is None:
            return 0
        elapsed = self.taken_at - self.earlier.manifest.taken_at
        return self.sampling.count(blocks, block_size, int(elapsed.total_seconds()))

    def _store_image(
        self, source: BlockSource, block_size: int, previous: BlockMap | None, compare: list[tuple[int, int]]
    ) -> tuple[BlockMap, ImageStats]:
        return store_image(
            source,
            block_size,
            self.writer,
            previous=previous,
            find_missing=lambda ids: self.repository.missing(BlobType.DATA, ids),
            progress=self.progress.advance,
            compare=compare,
        )

    def _read_all(self, captured: CapturedDisk, block_size: int) -> tuple[BlockMap, ImageStats]:
        return self._store_image(_Unknown(captured.source), block_size, None, [])

    def _save(self, captured: CapturedDisk, block_map: BlockMap) -> bytes:
        """Keep the map, unless it is that of the restore point before; returns the tree's id."""
        target = captured.disk.target
        previous = self.earlier.maps.get(target)
        if previous is not None and block_map.equals(previous):
            return self.earlier.trees[target]
        is_lost = previous is None and not self.earlier.is_whole
        return save_disk(self.writer, target, block_map, _mtime_ns(captured, is_lost=is_lost))


class _Unknown:
    """A disk of which nothing is known, whatever its source says."""

    def __init__(self, source: BlockSource) -> None:
        self.size = source.size
        self.read_into = source.read_into

    def extents(self) -> Iterator[Extent]:
        if self.size:
            yield Extent(0, self.size, Kind.DATA)


def _mtime_ns(captured: CapturedDisk, *, is_lost: bool) -> int:
    """The image's; another where the index may name a directory of the disk that is lost: it is stored anew then."""
    if is_lost:
        return time.time_ns()
    return captured.stamps[0].mtime_ns if captured.stamps else 0


def _point(
    captured: CapturedDisk, path: str, block_size: int, comparisons: tuple[Comparison, ...], *, is_wrong: bool
) -> DiskPoint:
    return DiskPoint(
        target=captured.disk.target,
        path=path,
        size=captured.source.size,
        block_size=block_size,
        source=captured.disk.source,
        image_format=captured.image_format,
        image_options=captured.image_options,
        stamps=captured.stamps,
        checkpoint=captured.checkpoint,
        had_internal_snapshots=captured.had_internal_snapshots,
        comparisons=comparisons,
        mismatch=is_wrong,
    )


def _report(captured: CapturedDisk, stats: ImageStats, reason: str, *, is_wrong: bool) -> DiskReport:
    return DiskReport(
        target=captured.disk.target,
        size=captured.source.size,
        read=stats.read,
        zero=stats.zero,
        kept=stats.kept,
        added=stats.added,
        stored=stats.stored,
        reason=reason,
        compared=stats.compared,
        mismatch=is_wrong,
    )


def _explain(
    mismatch: ChangedUnnoticedError, captured: CapturedDisk, block_size: int, known: tuple[Comparison, ...]
) -> str:
    block = mismatch.offset // block_size
    when = next((tile.when for tile in known if tile.start <= block < tile.start + tile.blocks), None)
    since = f" since {when:%Y-%m-%d %H:%M} UTC" if when else ""
    return (
        f"disk {captured.disk.target} has other bytes at offset {mismatch.offset} than the last restore point, though"
        f" they were said to be unchanged ({captured.reason}): something writes to the image unnoticed, or its storage"
        f" returns other bytes than were written. All of the disk was read, and this restore point is right; earlier"
        f" ones{since} may hold other bytes than the disk had: keep them, compare them with `donjon diff`, and see what"
        f" else opens the image and what the storage reports"
    )
