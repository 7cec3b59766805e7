# SPDX-License-Identifier: Apache-2.0
"""Disks go into a repository and come back byte for byte; only what must be read is read."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from donjon.errors import HostError, IntegrityError, StoreError
from donjon.model.extent import Extent, Kind
from donjon.repository.blob_index import BlobIndex
from donjon.repository.block_map import BlockMap
from donjon.repository.format.blob import BlobType, blob_id
from donjon.repository.lock import held
from donjon.repository.reader import BlobCache, Image
from donjon.repository.repository import Repository
from donjon.repository.store import FileName, FileType
from donjon.repository.stores.memory import MemoryStore
from donjon.repository.writer import WriteOptions, Writer
from donjon.restore.image import restore_image
from tests.unit.repository.disks import (
    BLOCK,
    PASSWORD,
    Disk,
    Target,
    alone,
    back_up,
    load_map,
    new_repository,
    random_bytes,
    random_disk,
    restored,
    save_disk,
)

MIB = 1 << 20
Pieces = list[tuple[int, Kind, int]]
QUICK = settings(max_examples=40)
pieces = st.lists(
    st.tuples(st.integers(1, 5 * BLOCK), st.sampled_from([Kind.DATA, Kind.ZERO]), st.integers(0, 3)), max_size=8
)


def disk_of(pieces: Pieces) -> Disk:
    content, extents = b"", []
    for length, kind, seed in pieces:
        extents.append(Extent(len(content), length, kind))
        content += bytes(length) if kind is Kind.ZERO else random_bytes(length, seed)
    return Disk(content, extents)


def blocks_read(disk: Disk) -> set[int]:
    return {offset // BLOCK for offset, _ in disk.reads}


@QUICK
@given(pieces, st.sampled_from([512, BLOCK, 3 * BLOCK]))
def test_any_disk_comes_back(pieces: Pieces, block_size: int) -> None:
    disk = disk_of(pieces)
    repository = new_repository()
    saved = back_up(repository, disk, block_size=block_size)
    assert restored(repository, saved.snapshot, block_size=block_size) == disk.content
    assert sum(length for _, length in disk.reads) == saved.stats.read
    assert saved.stats.read + saved.stats.zero + saved.stats.kept == disk.size


@QUICK
@given(st.integers(0, 5), st.lists(st.tuples(st.integers(0, 25), st.sampled_from(["data", "zero", "same"]))))
def test_an_incremental_reads_what_changed_and_nothing_else(seed: int, changes: list[tuple[int, str]]) -> None:
    repository = new_repository()
    before = random_disk(seed)
    first = back_up(repository, Disk(before))
    after, told = bytearray(before), [Kind.CLEAN] * 25
    for number, (block, change) in enumerate(changes):
        end = min(len(after), (block + 1) * BLOCK)
        if block < 25 and change != "same":
            length = end - block * BLOCK
            told[block] = Kind.DATA if change == "data" else Kind.ZERO
            after[block * BLOCK : end] = random_bytes(length, number) if change == "data" else bytes(length)
    extents = [Extent(n * BLOCK, min(BLOCK, len(after) - n * BLOCK), kind) for n, kind in enumerate(told)]
    disk = Disk(bytes(after), extents)
    with load_map(repository, first.snapshot) as previous:
        second = back_up(repository, disk, previous=previous)
    assert blocks_read(disk) == {n for n, kind in enumerate(told) if kind is Kind.DATA}
    assert restored(repository, second.snapshot) == bytes(after)
    assert restored(repository, first.snapshot) == before


def clean(size: int) -> Iterable[Extent]:
    return [Extent(0, size, Kind.CLEAN)]


def test_what_is_unchanged_is_not_read_and_keeps_its_ids() -> None:
    repository = new_repository()
    content = random_disk(1)
    first = back_up(repository, Disk(content))
    with load_map(repository, first.snapshot) as previous:
        disk = Disk(content, clean(len(content)))
        second = back_up(repository, disk, previous=previous)
        assert (disk.reads, second.written.data_blobs, second.stats.kept) == ([], 0, len(content))
        with load_map(repository, second.snapshot) as kept:
            assert kept.ids(0, 25) == previous.ids(0, 25)


def test_kept_blocks_that_the_repository_has_lost_are_read_again() -> None:
    repository = new_repository()
    content = random_bytes(20 * BLOCK, 1)
    first = back_up(repository, Disk(content))
    other = random_bytes(20 * BLOCK, 2)
    with load_map(repository, first.snapshot) as previous, BlockMap(len(content), BLOCK) as map_with_losses:
        lost = {3, 4, 9, 19}
        for block in range(20):
            known = previous.ids(block, block + 1)
            map_with_losses.append(blob_id(other[block * BLOCK :][:BLOCK]) if block in lost else known)
        disk = Disk(content, clean(len(content)))
        second = back_up(repository, disk, previous=map_with_losses)
    assert blocks_read(disk) == lost
    assert restored(repository, second.snapshot) == content


@pytest.mark.parametrize("was", [1, BLOCK, 10 * BLOCK, 10 * BLOCK + 5, 30 * BLOCK])
@pytest.mark.parametrize("size", [0, 1, BLOCK, 10 * BLOCK, 10 * BLOCK + 5, 10 * BLOCK + 6, 12 * BLOCK])
def test_a_disk_that_was_resized_comes_back_and_what_cannot_be_kept_is_read(was: int, size: int) -> None:
    repository = new_repository()
    before, after = random_bytes(was, 1), random_bytes(was, 1)[:size]
    after += random_bytes(size - len(after), 2)
    same = min(was, size)
    first = back_up(repository, Disk(before))
    extents = [Extent(0, same, Kind.CLEAN), Extent(same, size - same, Kind.DATA)]
    disk = Disk(after, [extent for extent in extents if extent.length])
    with load_map(repository, first.snapshot) as previous:
        second = back_up(repository, disk, previous=previous)
    assert restored(repository, second.snapshot) == after
    whole = size if was == size else same // BLOCK * BLOCK
    assert second.stats.kept == whole


@pytest.mark.parametrize("block_size", [None, 2 * BLOCK])
def test_clean_without_a_map_that_fits_is_refused(block_size: int | None) -> None:
    repository = new_repository()
    previous = BlockMap(4 * BLOCK, block_size) if block_size else None
    if previous:
        previous.append(blob_id(bytes(BLOCK)), previous.blocks)
        back_up(repository, Disk(bytes(BLOCK), [Extent(0, BLOCK, Kind.ZERO)]))
    with pytest.raises(IntegrityError, match="no earlier map"):
        back_up(repository, Disk(bytes(4 * BLOCK), clean(4 * BLOCK)), previous=previous)


def test_holes_are_stored_once_and_never_read() -> None:
    repository = new_repository()
    size = 1000 * BLOCK + 17
    disk = Disk(bytes(size), [Extent(0, size, Kind.ZERO)])
    saved = back_up(repository, disk)
    assert (disk.reads, saved.written.data_blobs, saved.stats.zero) == ([], 2, size)
    assert restored(repository, saved.snapshot) == bytes(size)


def test_zeros_that_were_read_are_stored_as_holes_are() -> None:
    repository = new_repository()
    saved = back_up(repository, Disk(bytes(50 * BLOCK)))
    assert (saved.written.data_blobs, saved.stats.read) == (1, 50 * BLOCK)
    assert back_up(repository, Disk(bytes(50 * BLOCK), [Extent(0, 50 * BLOCK, Kind.ZERO)])).written.data_blobs == 0


def test_the_same_block_is_stored_once_whoever_has_it() -> None:
    repository = new_repository()
    content = random_bytes(BLOCK, 1) * 100
    assert back_up(repository, Disk(content)).written.data_blobs == 1
    assert back_up(repository, Disk(content), name="other").written.data_blobs == 0


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1])
def test_the_smallest_disks(size: int) -> None:
    repository = new_repository()
    content = random_bytes(size, 3)
    assert restored(repository, back_up(repository, Disk(content)).snapshot) == content


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("level", range(1, 20))
def test_every_level_gives_the_same_disk(level: int, verify: bool) -> None:
    repository = new_repository()
    content = random_disk(level)
    saved = back_up(repository, Disk(content), options=WriteOptions(level=level, verify=verify, workers=2))
    assert restored(repository, saved.snapshot) == content


def test_any_stretch_of_an_image_reads_as_it_was() -> None:
    repository = new_repository()
    content = random_disk(7, tail=77)
    saved = back_up(repository, Disk(content))
    chance = random.Random(1)
    with load_map(repository, saved.snapshot) as block_map:
        image = Image(repository, block_map, BlobCache(repository, capacity=3 * BLOCK))
        for _ in range(300):
            offset, length = chance.randrange(len(content) + 10), chance.randrange(4 * BLOCK)
            assert image.read(offset, length) == content[offset : offset + length]
        with pytest.raises(ValueError, match="negative"):
            image.read(-1, 1)


class Broken(Disk):
    """A disk of which one block cannot be read."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        super().read_into(offset, buffer)
        if offset == 30 * MIB:
            raise HostError("cannot read the disk: it is broken")


LARGE = random_bytes(32 * MIB, 1)
LARGE_IDS = [blob_id(LARGE[at : at + MIB]) for at in range(0, len(LARGE), MIB)]


def fail(repository: Repository, workers: int) -> Broken:
    """Begin a backup that stops after most of the disk."""
    broken = Broken(LARGE)
    with pytest.raises(HostError):
        back_up(repository, broken, options=WriteOptions(pack_size=2 * MIB, workers=workers), block_size=MIB)
    assert list(repository.snapshots()) == []
    return broken


@pytest.mark.parametrize("same_process", [True, False])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_after_a_backup_failed_the_next_stores_only_what_is_missing(workers: int, same_process: bool) -> None:
    repository = new_repository()
    fail(repository, workers)
    again = repository if same_process else Repository.open(repository.store, PASSWORD)
    known = sum(again.has_blob(BlobType.DATA, blob) for blob in LARGE_IDS)
    saved = back_up(again, Disk(LARGE), block_size=MIB)
    anew = Repository.open(repository.store, PASSWORD)
    assert saved.written.data_blobs == 32 - known < 32
    assert restored(anew, saved.snapshot, block_size=MIB) == LARGE
    assert all(len(anew.locations(BlobType.DATA, blob)) == 1 for blob in LARGE_IDS)


def test_a_writer_whose_disk_failed_commits_nothing_that_relies_on_it() -> None:
    repository = new_repository()
    with pytest.raises(IntegrityError, match="never added"), alone(repository, WriteOptions(workers=2)) as writer:
        with pytest.raises(HostError):
            save_disk(writer, Broken(LARGE), block_size=MIB)
        save_disk(writer, Disk(LARGE), block_size=MIB)
        writer.flush()


def damage(repository: Repository, kind: FileType, at: int) -> None:
    assert isinstance(repository.store, MemoryStore)
    files = repository.store.files
    name = max((name for name in files if name.type is kind), key=lambda name: len(files[name]))
    content = bytearray(files[name])
    content[at % len(content)] ^= 1
    files[name] = bytes(content)


@pytest.mark.parametrize("at", [0, 17, BLOCK, 5 * BLOCK, -20])
def test_a_damaged_pack_is_never_restored_from(at: int) -> None:
    repository = new_repository()
    content = random_bytes(30 * BLOCK, 1)
    saved = back_up(repository, Disk(content))
    damage(repository, FileType.PACK, at)
    again = Repository.open(repository.store, PASSWORD)
    try:
        assert restored(again, saved.snapshot) == content  # the damage is in the header, which a restore needs not
        assert at < 0
    except IntegrityError as error:
        assert at >= 0
        assert error.hint


def test_a_block_that_another_pack_holds_too_is_read_from_there() -> None:
    repository = new_repository()
    content = random_bytes(30 * BLOCK, 1)
    saved = back_up(repository, Disk(content))
    unaware = repository.with_index(BlobIndex())
    with held(unaware.files) as lock, Writer(unaware, lock, WriteOptions()) as writer:
        save_disk(writer, Disk(content))
        writer.flush()
    again = Repository.open(repository.store, PASSWORD)
    block = blob_id(content[:BLOCK])
    places = again.locations(BlobType.DATA, block)
    assert len(places) == 2
    store = again.store
    assert isinstance(store, MemoryStore)
    name = FileName(FileType.PACK, places[0].pack.hex())
    store.files[name] = bytes(len(store.files[name]))
    assert restored(again, saved.snapshot) == content
    del store.files[name]
    assert restored(again, saved.snapshot) == content
    assert again.load_blob(BlobType.DATA, block) == content[:BLOCK]


def test_a_pack_that_is_gone_is_an_error_that_names_it() -> None:
    repository = new_repository()
    saved = back_up(repository, Disk(random_bytes(3 * BLOCK, 1)))
    store = repository.store
    assert isinstance(store, MemoryStore)
    packs = [name for name in store.files if name.type is FileType.PACK]
    data = max(packs, key=lambda name: len(store.files[name]))
    del store.files[data]
    with pytest.raises((StoreError, IntegrityError), match=data.name[:16]):
        restored(repository, saved.snapshot)


def test_a_map_that_lies_about_the_length_of_a_block_restores_nothing_of_it() -> None:
    repository = new_repository()
    short = random_bytes(BLOCK // 2, 1)
    back_up(repository, Disk(short))
    with BlockMap(BLOCK + BLOCK // 2, BLOCK) as lying:
        lying.append(blob_id(short), 2)
        with pytest.raises(IntegrityError, match="block 0"):
            restore_image(repository, lying, Target(lying.size))
        with pytest.raises(IntegrityError, match="block 0"):
            Image(repository, lying).load_block(0)
