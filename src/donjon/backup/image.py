# SPDX-License-Identifier: Apache-2.0
"""One disk into the repository: only what must be read is read, only what is new is stored."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from donjon.backup.plan import Action, Run, plan_runs
from donjon.errors import IntegrityError
from donjon.model.block_source import BlockSource
from donjon.repository.block_map import BlockMap
from donjon.repository.format.blob import BlobType, blob_id
from donjon.repository.writer import Prepared, Writer

KIB = 1 << 10
MIB = 1 << 20
TIB = 1 << 40

_STRETCH = 4 * MIB
_KEEP_AT_ONCE = 1 << 15


@dataclass(slots=True)
class ImageStats:
    """What became of a disk's bytes: `read` from the source, known to be `zero`, `kept` from the restore point before.

    Of those read, `added` were new to the repository, and took up `stored` bytes there.
    """

    read: int = 0
    zero: int = 0
    kept: int = 0
    added: int = 0
    stored: int = 0


def choose_block_size(size: int) -> int:
    """In bytes, for a disk of `size` bytes that has no restore point yet.

    512 KiB is where restic's own zero chunk lies, so that stock `restic restore --sparse` works; larger disks get
    larger blocks, to keep the list of blocks, which every restore point stores anew, small.
    """
    if size > 8 * TIB:
        return 4 * MIB
    return 1 * MIB if size > TIB else 512 * KIB


def store_image(
    source: BlockSource,
    block_size: int,
    writer: Writer,
    *,
    previous: BlockMap | None,
    has_blob: Callable[[bytes], bool],
    progress: Callable[[int], None],
) -> tuple[BlockMap, ImageStats]:
    """Store a disk's blocks.

    Args:
        source: holds still until this returns.
        block_size: in bytes.
        writer: of the repository.
        previous: the disk's map in the restore point that CLEAN extents refer to.
        has_blob: whether a data blob of the previous map is still there; what is not is read again.
        progress: called with the number of bytes dealt with since the last call.

    Raises:
        HostError: the source cannot be read.
        StoreError: the repository cannot be written.
        IntegrityError: CLEAN extents without a previous map that fits.
    """
    image = _ImageWriter(source, block_size, writer, previous)
    try:
        runs = plan_runs(source.extents(), source.size, block_size)
        if previous is not None:
            runs = _reread_missing(runs, previous, has_blob, source.size)
        for run, blocks in writer.map(image.prepare, _split(runs, block_size)):
            image.add(run, blocks)
            progress(image.bytes_of(run))
    except BaseException:
        image.block_map.close()
        raise
    return image.block_map, image.stats


class _ImageWriter:
    """Makes blobs of runs: `prepare` in any thread, then `add` in the order of the disk."""

    def __init__(self, source: BlockSource, block_size: int, writer: Writer, previous: BlockMap | None) -> None:
        self.block_map = BlockMap(source.size, block_size)
        self.stats = ImageStats()
        self._source = source
        self._writer = writer
        self._previous = previous
        self._zeros_saved: set[int] = set()
        self._per_thread = threading.local()

    def prepare(self, run: Run) -> tuple[Run, list[Prepared | None]]:
        """The run, and if it is to be read its blocks; None for a block of zeros."""
        if run.action is not Action.READ:
            return run, []
        return run, [self._read(block) for block in range(run.start, run.start + run.blocks)]

    def _read(self, block: int) -> Prepared | None:
        length = self.block_map.length_of(block)
        buffer: bytearray | None = getattr(self._per_thread, "buffer", None)
        if buffer is None or len(buffer) != length:
            buffer = self._per_thread.buffer = bytearray(length)
        self._source.read_into(block * self.block_map.block_size, memoryview(buffer))
        if buffer == _zeros(length):
            return None
        return self._writer.prepare(BlobType.DATA, buffer)

    def add(self, run: Run, blocks: list[Prepared | None]) -> None:
        """Put a run into the map, and what is new of it into the repository."""
        if run.action is Action.READ:
            self.stats.read += self.bytes_of(run)
            for block, prepared in enumerate(blocks, run.start):
                if prepared is None:
                    self._append_zeros(block, 1)
                else:
                    self._append(prepared)
        elif run.action is Action.ZERO:
            self.stats.zero += self.bytes_of(run)
            self._append_zeros(run.start, run.blocks)
        else:
            self.stats.kept += self.bytes_of(run)
            self._append_kept(run)

    def _append(self, prepared: Prepared) -> None:
        if prepared.sealed is not None:
            self.stats.added += prepared.plain_length
            self.stats.stored += len(prepared.sealed)
        self.block_map.append(self._writer.add(prepared))

    def _append_zeros(self, start: int, count: int) -> None:
        """The last block of a disk may be shorter, and is another blob then."""
        last = start + count - 1
        self.block_map.append(self._zero_blob(start), count - 1)
        self.block_map.append(self._zero_blob(last))

    def _zero_blob(self, block: int) -> bytes:
        length = self.block_map.length_of(block)
        if length not in self._zeros_saved:
            self._writer.save_blob(BlobType.DATA, _zeros(length))
            self._zeros_saved.add(length)
        return _zero_blob_id(length)

    def _append_kept(self, run: Run) -> None:
        previous = self._previous
        stop = run.start + run.blocks
        if (
            previous is None
            or previous.block_size != self.block_map.block_size
            or stop > previous.blocks
            or previous.length_of(stop - 1) != self.block_map.length_of(stop - 1)
        ):
            raise IntegrityError("cannot keep unchanged blocks: there is no earlier map of this disk that fits")
        for start in range(run.start, stop, _KEEP_AT_ONCE):
            self.block_map.append(previous.ids(start, min(start + _KEEP_AT_ONCE, stop)))

    def bytes_of(self, run: Run) -> int:
        """Length of a run, in bytes."""
        first = run.start * self.block_map.block_size
        return min(first + run.blocks * self.block_map.block_size, self.block_map.size) - first


def _split(runs: Iterable[Run], block_size: int) -> Iterator[Run]:
    """READ runs cut into stretches that a worker takes at once."""
    stretch = max(1, _STRETCH // block_size)
    for run in runs:
        if run.action is not Action.READ:
            yield run
            continue
        stop = run.start + run.blocks
        for start in range(run.start, stop, stretch):
            yield Run(start, min(stretch, stop - start), Action.READ)


def _reread_missing(
    runs: Iterable[Run], previous: BlockMap, has_blob: Callable[[bytes], bool], size: int
) -> Iterator[Run]:
    """KEEP runs without the blocks that the repository has lost since, or had in another length: those are read."""
    comparable = previous.blocks if size == previous.size else min(size, previous.size) // previous.block_size
    for run in runs:
        if run.action is not Action.KEEP:
            yield run
            continue
        kept, stop = run.start, run.start + run.blocks
        for start, count in _missing(previous, kept, stop, comparable, has_blob):
            if start > kept:
                yield Run(kept, start - kept, Action.KEEP)
            yield Run(start, count, Action.READ)
            kept = start + count
        if stop > kept:
            yield Run(kept, stop - kept, Action.KEEP)


def _missing(
    previous: BlockMap, start: int, stop: int, comparable: int, has_blob: Callable[[bytes], bool]
) -> Iterator[tuple[int, int]]:
    for first, count, blob in previous.runs(start, min(stop, comparable)):
        if not has_blob(blob):
            yield first, count
    first = max(start, comparable)
    if stop > first:
        yield first, stop - first


@cache
def _zeros(length: int) -> bytes:
    return bytes(length)


@cache
def _zero_blob_id(length: int) -> bytes:
    return blob_id(_zeros(length))
