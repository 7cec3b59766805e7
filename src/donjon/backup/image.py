# SPDX-License-Identifier: Apache-2.0
"""One disk into the repository: only what must be read is read, only what is new is stored."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby, takewhile

from donjon.backup.plan import Action, Run, plan_runs
from donjon.backup.sample import Stretch, compare_in
from donjon.errors import IntegrityError
from donjon.model.block_source import BlockSource
from donjon.repository.block_map import BlockMap
from donjon.repository.format.blob import ID_LENGTH, BlobType, blob_id
from donjon.repository.writer import Prepared, Writer

KIB = 1 << 10
MIB = 1 << 20
TIB = 1 << 40

_STRETCH = 4 * MIB
_KEEP_AT_ONCE = 1 << 15


@dataclass(slots=True)
class ImageStats:
    """What became of a disk's bytes: `read` from the source, known to be `zero`, `kept` from the restore point before.

    Of those read, `added` were new to the repository, and took up `stored` bytes there. Of those kept, `compared` were
    read as well, to see whether they are as before.
    """

    read: int = 0
    zero: int = 0
    kept: int = 0
    added: int = 0
    stored: int = 0
    compared: int = 0


class ChangedUnnoticedError(IntegrityError):
    """A block that was said to be unchanged is not: of the disk, nothing is known; `offset` in bytes."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"cannot keep the block at offset {offset}: it was said to be unchanged, and is not")
        self.offset = offset


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
    find_missing: Callable[[bytes], Sequence[int]],
    progress: Callable[[int], None],
    compare: Iterable[Stretch] = (),
) -> tuple[BlockMap, ImageStats]:
    """Store a disk's blocks.

    Args:
        source: holds still until this returns.
        block_size: in bytes.
        writer: of the repository.
        previous: the disk's map in the restore point that CLEAN extents refer to.
        find_missing: which of many packed ids of data blobs the repository has no more, by their places, ascending;
            what is missing is read again.
        progress: called with the number of bytes dealt with since the last call.
        compare: stretches of blocks, ascending, that are read even where they are CLEAN.

    Raises:
        ChangedUnnoticedError: what is CLEAN and was compared was not as before. Nothing is lost: the writer goes on.
        HostError: the source cannot be read.
        StoreError: the repository cannot be written.
        IntegrityError: CLEAN extents without a previous map that fits.
    """
    image = _ImageWriter(source, block_size, writer, previous)
    try:
        runs = plan_runs(source.extents(), source.size, block_size)
        if previous is not None:
            runs = compare_in(_reread_missing(runs, previous, find_missing, source.size), compare)
        # What is on its way when a block turns out to have changed is added all the same: others may rely on it.
        runs = takewhile(lambda _: image.changed_at is None, _split(runs, block_size))
        for run, blocks in writer.map(image.prepare, runs):
            image.add(run, blocks)
            progress(image.bytes_of(run))
        if image.changed_at is not None:
            raise ChangedUnnoticedError(image.changed_at)
    except BaseException:
        image.block_map.close()
        raise
    return image.block_map, image.stats


class _ImageWriter:
    """Makes blobs of runs: `prepare` in any thread, then `add` in the order of the disk.

    `changed_at` is the offset of a block that was to be kept, and that has changed. The map is worth nothing then.
    """

    def __init__(self, source: BlockSource, block_size: int, writer: Writer, previous: BlockMap | None) -> None:
        self.block_map = BlockMap(source.size, block_size)
        self.stats = ImageStats()
        self.changed_at: int | None = None
        self._source = source
        self._writer = writer
        self._previous = previous
        self._zeros_saved: set[int] = set()
        self._per_thread = threading.local()

    def prepare(self, run: Run) -> tuple[Run, list[Prepared | bytes]]:
        """The run, and what is to be read of it: blocks ready to be added, or only ids, of zeros and to compare."""
        prepare = {Action.READ: self._prepare, Action.COMPARE: self._identify}.get(run.action)
        if prepare is None:
            return run, []
        return run, [prepare(self._read(block)) for block in range(run.start, run.start + run.blocks)]

    def _read(self, block: int) -> bytearray:
        """A block, until this thread reads the next one."""
        length = self.block_map.length_of(block)
        buffer: bytearray | None = getattr(self._per_thread, "buffer", None)
        if buffer is None or len(buffer) != length:
            buffer = self._per_thread.buffer = bytearray(length)
        self._source.read_into(block * self.block_map.block_size, memoryview(buffer))
        return buffer

    def _prepare(self, content: bytearray) -> Prepared | bytes:
        if content == _zeros(len(content)):
            return _zero_blob_id(len(content))
        return self._writer.prepare(BlobType.DATA, content)

    def _identify(self, content: bytearray) -> bytes:
        return _zero_blob_id(len(content)) if content == _zeros(len(content)) else blob_id(content)

    def add(self, run: Run, blocks: list[Prepared | bytes]) -> None:
        """Put a run into the map, and what is new of it into the repository."""
        length = self.bytes_of(run)
        if run.action is Action.READ:
            self.stats.read += length
            for block, prepared in enumerate(blocks, run.start):
                if isinstance(prepared, bytes):
                    self._append_zeros(block, 1)
                else:
                    self._append(prepared)
        elif run.action is Action.ZERO:
            self.stats.zero += length
            self._append_zeros(run.start, run.blocks)
        else:
            self.stats.kept += length
            self._append_kept(run)
            if run.action is Action.COMPARE:
                self.stats.compared += length
                self._compare(run, blocks)

    def _compare(self, run: Run, found: list[Prepared | bytes]) -> None:
        kept = self.block_map.ids(run.start, run.start + run.blocks)
        for at, blob in enumerate(found):
            if blob != kept[at * ID_LENGTH : (at + 1) * ID_LENGTH] and self.changed_at is None:
                self.changed_at = (run.start + at) * self.block_map.block_size

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
    """Runs that are read cut into stretches that a worker takes at once."""
    stretch = max(1, _STRETCH // block_size)
    for run in runs:
        if run.action not in (Action.READ, Action.COMPARE):
            yield run
            continue
        stop = run.start + run.blocks
        for start in range(run.start, stop, stretch):
            yield Run(start, min(stretch, stop - start), run.action)


def _reread_missing(
    runs: Iterable[Run], previous: BlockMap, find_missing: Callable[[bytes], Sequence[int]], size: int
) -> Iterator[Run]:
    """KEEP runs without the blocks that the repository has lost since, or had in another length: those are read."""
    comparable = previous.blocks if size == previous.size else min(size, previous.size) // previous.block_size
    for run in runs:
        if run.action is not Action.KEEP:
            yield run
            continue
        kept, stop = run.start, run.start + run.blocks
        for start, count in _missing(previous, kept, stop, comparable, find_missing):
            if start > kept:
                yield Run(kept, start - kept, Action.KEEP)
            yield Run(start, count, Action.READ)
            kept = start + count
        if stop > kept:
            yield Run(kept, stop - kept, Action.KEEP)


def _missing(
    previous: BlockMap, start: int, stop: int, comparable: int, find_missing: Callable[[bytes], Sequence[int]]
) -> Iterator[tuple[int, int]]:
    known = min(stop, comparable)
    for first in range(start, known, _KEEP_AT_ONCE):
        missing = find_missing(previous.ids(first, min(first + _KEEP_AT_ONCE, known)))
        # Neighbours are equally far ahead of their numbers in the list.
        for _, stretch in groupby(enumerate(missing), lambda item: item[1] - item[0]):
            places = [place for _, place in stretch]
            yield first + places[0], len(places)
    first = max(start, comparable)
    if stop > first:
        yield first, stop - first


@cache
def _zeros(length: int) -> bytes:
    return bytes(length)


@cache
def _zero_blob_id(length: int) -> bytes:
    return blob_id(_zeros(length))
