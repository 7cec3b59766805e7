# SPDX-License-Identifier: Apache-2.0
"""One disk out of the repository: read pack by pack, proven and written block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple, Protocol

from donjon.errors import IntegrityError, StoreError
from donjon.repository.blob_index import Location
from donjon.repository.block_map import BlockMap
from donjon.repository.format.blob import BlobType, Buffer, blob_id
from donjon.repository.ordered import map_ordered, worker_count
from donjon.repository.repository import Repository
from donjon.repository.store import FileName, FileType

_STRETCH = 4 << 20


class Sink(Protocol):
    """Where a disk is written to, from its first byte to its last."""

    def write(self, offset: int, buffer: Buffer) -> None:
        """Put bytes there. Raises HostError."""
        ...

    def zero(self, offset: int, length: int) -> None:
        """See to it that there are zeros, holes if possible. Raises HostError."""
        ...


class _Piece(NamedTuple):
    """A blob, the `repeats` blocks from `start` on that it fills, and where it is; location None for zeros."""

    start: int
    repeats: int
    blob: bytes
    location: Location | None


def restore_image(
    repository: Repository,
    block_map: BlockMap,
    sink: Sink,
    *,
    in_order: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Write a disk to a sink, every block proven before it is written.

    Args:
        repository: open.
        block_map: of the disk.
        sink: thread-safe, unless the disk is written in order.
        in_order: from the first byte to the last. Otherwise whoever has proven a block writes it, while it is at hand.
        progress: called with the number of bytes dealt with since the last call.

    Raises:
        IntegrityError: a block is damaged or missing in the repository.
        StoreError: the repository cannot be read.
        HostError: the sink cannot be written.
    """

    def work(stretch: list[_Piece]) -> tuple[list[_Piece], list[bytes]]:
        if in_order:
            return stretch, list(_blocks(repository, block_map, stretch))
        _write(stretch, _blocks(repository, block_map, stretch), block_map, sink)
        return stretch, []

    workers = worker_count()
    with ThreadPoolExecutor(workers, "donjon-open") as executor:
        stretches = _stretches(_pieces(repository, block_map))
        for stretch, blocks in map_ordered(executor, work, stretches, ahead=2 * workers):
            if in_order:
                _write(stretch, blocks, block_map, sink)
            first, last = stretch[0], stretch[-1]
            end = min((last.start + last.repeats) * block_map.block_size, block_map.size)
            progress(end - first.start * block_map.block_size)


def _pieces(repository: Repository, block_map: BlockMap) -> Iterator[_Piece]:
    zeros = {blob_id(bytes(length)) for length in {block_map.block_size, block_map.length_of(block_map.blocks - 1)}}
    for start, count, blob in block_map.runs():
        if blob in zeros:
            yield _Piece(start, count, blob, None)
            continue
        locations = repository.locations(BlobType.DATA, blob)
        if not locations:
            raise IntegrityError(
                f"cannot restore block {start}: no index names blob {blob.hex()[:16]}",
                hint="`donjon check` shows what is missing, `donjon repair index` may find it",
            )
        yield _Piece(start, count, blob, locations[0])


def _stretches(pieces: Iterator[_Piece]) -> Iterator[list[_Piece]]:
    """Neighbours that lie one after the other in a pack, to be read at once; zeros and repeats stand alone."""
    stretch: list[_Piece] = []
    length = 0
    for piece in pieces:
        if stretch and not (_adjacent(stretch[-1], piece) and length < _STRETCH):
            yield stretch
            stretch, length = [], 0
        stretch.append(piece)
        length += 0 if piece.location is None else piece.location.uncompressed_length or piece.location.length
    if stretch:
        yield stretch


def _adjacent(left: _Piece, right: _Piece) -> bool:
    if left.location is None or right.location is None or left.repeats > 1 or right.repeats > 1:
        return False
    return (
        left.location.pack == right.location.pack
        and left.location.offset + left.location.length == right.location.offset
    )


def _blocks(repository: Repository, block_map: BlockMap, stretch: list[_Piece]) -> Iterator[bytes]:
    """The blocks of a stretch, one for each piece; none for zeros."""
    first, last = stretch[0].location, stretch[-1].location
    if first is None or last is None:
        return
    sealed: memoryview | None = None
    with suppress(StoreError):  # then one by one, from whichever pack has them
        name = FileName(FileType.PACK, first.pack.hex())
        sealed = memoryview(repository.store.load(name, first.offset, last.offset + last.length - first.offset))
    for piece in stretch:
        assert piece.location is not None
        at = piece.location.offset - first.offset
        block = _open(repository, piece, sealed[at : at + piece.location.length] if sealed else None)
        ends = (piece.start, piece.start + piece.repeats - 1)
        if any(block_map.length_of(number) != len(block) for number in ends):
            raise IntegrityError(f"cannot restore block {piece.start}: its blob has {len(block)} bytes")
        yield block


def _open(repository: Repository, piece: _Piece, sealed: memoryview | None) -> bytes:
    if sealed is not None and piece.location is not None:
        with suppress(IntegrityError):
            return repository.open_blob(piece.blob, piece.location, sealed)
    return repository.load_blob(BlobType.DATA, piece.blob)


def _write(stretch: list[_Piece], blocks: Iterable[bytes], block_map: BlockMap, sink: Sink) -> None:
    first = stretch[0]
    if first.location is None:
        offset = first.start * block_map.block_size
        end = min((first.start + first.repeats) * block_map.block_size, block_map.size)
        sink.zero(offset, end - offset)
        return
    for piece, block in zip(stretch, blocks, strict=True):
        for number in range(piece.start, piece.start + piece.repeats):
            sink.write(number * block_map.block_size, block)
