# SPDX-License-Identifier: Apache-2.0
"""Small disks, and their way into a repository and back: what the suites of the engine have in common."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Lock as Mutex

from donjon.backup.image import ImageStats, store_image
from donjon.model.extent import Extent, Kind
from donjon.repository.block_map import BlockMap
from donjon.repository.format import go_json
from donjon.repository.format.blob import BlobType, Buffer, parse_id
from donjon.repository.format.keyfile import Scrypt
from donjon.repository.format.snapshot import Snapshot
from donjon.repository.format.tree import dir_node, encode_parts, encode_tree, file_node
from donjon.repository.lock import Pace, held
from donjon.repository.reader import find_node, load_disk_tree, load_tree
from donjon.repository.repository import Repository
from donjon.repository.store import Store
from donjon.repository.stores.memory import MemoryStore
from donjon.repository.writer import WriteOptions, Writer, Written
from donjon.restore.image import restore_image

PASSWORD = "pw"
CHEAP = Scrypt(n=2, r=1, p=1)
BLOCK = 4096


class Disk:
    """A disk in memory that remembers what was read of it; all of it is data unless `extents` say otherwise."""

    def __init__(self, content: bytes, extents: Iterable[Extent] | None = None) -> None:
        self.content = content
        self.size = len(content)
        self.reads: list[tuple[int, int]] = []
        self._extents = extents
        self._lock = Mutex()

    def extents(self) -> Iterator[Extent]:
        if self._extents is not None:
            yield from self._extents
        elif self.size:
            yield Extent(0, self.size, Kind.DATA)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        with self._lock:
            self.reads.append((offset, len(buffer)))
        buffer[:] = self.content[offset : offset + len(buffer)]


class Target:
    """What a disk is restored to; `order` remembers where its pieces went."""

    def __init__(self, size: int) -> None:
        self.content = bytearray(b"\xee" * size)
        self.order: list[int] = []

    def write(self, offset: int, buffer: Buffer) -> None:
        assert offset + len(buffer) <= len(self.content)
        self.order.append(offset)
        self.content[offset : offset + len(buffer)] = buffer

    def zero(self, offset: int, length: int) -> None:
        self.write(offset, bytes(length))


@dataclass(frozen=True)
class Saved:
    """What a backup left: the snapshot, the tree of its disk, and what was done for it."""

    snapshot: str
    stats: ImageStats
    written: Written


def random_bytes(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def random_disk(seed: int, blocks: int = 24, tail: int = 1000) -> bytes:
    """A disk of every sort of block: random, zero, compressible and repeated, the last of `tail` bytes."""
    chance = random.Random(seed)
    repeated = chance.randbytes(BLOCK)
    pattern = b"%8d" % chance.randrange(99) * (BLOCK // 8)
    content = b"".join(chance.choice([chance.randbytes(BLOCK), bytes(BLOCK), pattern, repeated]) for _ in range(blocks))
    return content + chance.randbytes(tail)


def new_repository(store: Store | None = None) -> Repository:
    return Repository.create(MemoryStore() if store is None else store, PASSWORD, scrypt=CHEAP)


@contextmanager
def alone(repository: Repository, options: WriteOptions | None = None) -> Iterator[Writer]:
    """Write where nobody else does: without the wait that taking a lock else needs."""
    with held(repository.files, pace=Pace(settle=0)) as lock:
        repository.load_index()
        with Writer(repository, lock, options or WriteOptions()) as writer:
            yield writer


def back_up(
    repository: Repository,
    disk: Disk,
    *,
    name: str = "vm",
    previous: BlockMap | None = None,
    block_size: int = BLOCK,
    options: WriteOptions | None = None,
) -> Saved:
    """A restore point of one disk, as donjon lays it out."""
    with alone(repository, options or WriteOptions(pack_size=8 * BLOCK, workers=2)) as writer:
        stats, tree = save_disk(writer, disk, previous=previous, block_size=block_size)
        return Saved(save_point(writer, tree, name), stats, writer.written)


def save_disk(
    writer: Writer, disk: Disk, *, previous: BlockMap | None = None, block_size: int = BLOCK
) -> tuple[ImageStats, bytes]:
    block_map, stats = store_image(
        disk,
        block_size,
        writer,
        previous=previous,
        find_missing=lambda ids: writer._repository.missing(BlobType.DATA, ids),
        progress=lambda _: None,
    )
    with block_map:
        node = file_node("vda.raw", size=block_map.size, mtime_ns=1, inode=1)
        return stats, writer.save_tree(encode_parts([(node, block_map.parts())]))


def save_point(writer: Writer, tree: bytes, name: str = "vm") -> str:
    vm = writer.save_blob(BlobType.TREE, encode_tree([dir_node("vda", tree, mtime_ns=1, inode=2)]))
    root = writer.save_blob(BlobType.TREE, encode_tree([dir_node(name, vm, mtime_ns=1, inode=3)]))
    now = go_json.format_time(datetime.now(UTC))
    return writer.save_snapshot(Snapshot(time=now, tree=root.hex(), paths=[f"/{name}"], hostname="host"))


def load_map(repository: Repository, snapshot: str, name: str = "vm", block_size: int = BLOCK) -> BlockMap:
    root = parse_id(repository.load_snapshot(snapshot).tree)
    tree = parse_id(find_node(repository, root, f"{name}/vda").subtree or "")
    size = load_tree(repository, tree).nodes[0].size
    return load_disk_tree(repository, tree, size, block_size)[1]


def restored(repository: Repository, snapshot: str, name: str = "vm", block_size: int = BLOCK) -> bytes:
    with load_map(repository, snapshot, name, block_size) as block_map:
        target, in_order = Target(block_map.size), Target(block_map.size)
        restore_image(repository, block_map, target)
        restore_image(repository, block_map, in_order, in_order=True)
        assert in_order.order == sorted(target.order)
        assert in_order.content == target.content
        return bytes(target.content)
