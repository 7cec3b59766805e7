# SPDX-License-Identifier: Apache-2.0
"""The map of a large disk is read as it was written, in parts, and not at all once it is damaged."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest

from donjon.errors import IntegrityError
from donjon.repository.block_map import BlockMap
from donjon.repository.format.blob import BlobType
from donjon.repository.format.tree import encode_parts, file_node
from donjon.repository.reader import load_disk_tree
from donjon.repository.repository import Repository
from donjon.repository.store import FileName, FileType
from donjon.repository.stores.memory import MemoryStore
from tests.unit.repository.disks import PASSWORD, alone, new_repository, random_bytes

MIB = 1 << 20
BLOCKS = 300_000  # 20 MB of text


def save_map(repository: Repository, ids: Iterator[bytes], blocks: int = BLOCKS) -> bytes:
    node = file_node("vda.raw", size=blocks * MIB, mtime_ns=1, inode=1)
    with alone(repository) as writer:
        tree = writer.save_tree(encode_parts([(node, ids)]))
        writer.flush()
    return tree


def different() -> Iterator[bytes]:
    for part in range(100):
        yield random_bytes(32 * BLOCKS // 100, part)


def packed(block_map: BlockMap) -> bytes:
    return b"".join(block_map.parts())


def test_a_large_map_is_read_as_written() -> None:
    repository = new_repository()
    tree = save_map(repository, different())
    node, block_map = load_disk_tree(repository, tree, BLOCKS * MIB, MIB)
    with block_map:
        assert (node.name, node.content) == ("vda.raw", [])
        assert packed(block_map) == b"".join(different())


@pytest.mark.parametrize("at", [0.0, 0.001, 0.5, 0.999])
def test_a_large_map_that_was_damaged_is_not_read(at: float) -> None:
    repository = new_repository()
    tree = save_map(repository, different())
    (place,) = repository.locations(BlobType.TREE, tree)
    store = repository.store
    assert isinstance(store, MemoryStore)
    name = FileName(FileType.PACK, place.pack.hex())
    damaged = bytearray(store.files[name])
    damaged[place.offset + int(place.length * at)] ^= 1
    store.files[name] = bytes(damaged)
    with pytest.raises(IntegrityError):
        load_disk_tree(Repository.open(store, PASSWORD), tree, BLOCKS * MIB, MIB)


@pytest.mark.parametrize("size", [0, (BLOCKS - 1) * MIB, BLOCKS * MIB - 1, BLOCKS * MIB + 1, (BLOCKS + 1) * MIB])
def test_a_map_of_another_size_is_refused(size: int) -> None:
    repository = new_repository()
    tree = save_map(repository, iter([b"\1" * 32 * BLOCKS]))
    with pytest.raises(IntegrityError, match="map"):
        load_disk_tree(repository, tree, size, MIB)


def test_the_map_of_an_empty_giant_is_written_and_read_in_little_memory() -> None:
    """Four TiB of zeros: 280 MB of text that compress to a few KB and must not come back at once."""
    repository = new_repository()
    blocks = 4 << 20
    tracemalloc.start()
    tree = save_map(repository, (b"\1" * 32 * (1 << 13) for _ in range(blocks >> 13)), blocks)
    _, block_map = load_disk_tree(repository, tree, blocks * MIB, MIB)
    with block_map:
        assert block_map.complete
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50 * MIB
