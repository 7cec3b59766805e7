# SPDX-License-Identifier: Apache-2.0
"""What a check examines beyond damaged files (for those see tests/damage), what it reads, what it finds harmless."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from donjon.errors import ConfigError, RepositoryLockedError
from donjon.repository import lock
from donjon.repository.check import check
from donjon.repository.check_report import Place
from donjon.repository.format import go_json
from donjon.repository.format.blob import BlobType, PackedBlob, blob_id
from donjon.repository.format.crypto import seal
from donjon.repository.format.index_file import encode_index
from donjon.repository.format.pack import encode_header
from donjon.repository.format.snapshot import Snapshot, encode_snapshot
from donjon.repository.format.tree import Node, Tree, encode_parts, encode_tree, file_node
from donjon.repository.pack_reading import Subset, read_header, read_pack
from donjon.repository.repository import Repository
from donjon.repository.store import Buffer, FileInfo, FileName, FileType
from donjon.repository.stores.local import LocalStore
from donjon.repository.stores.memory import MemoryStore
from donjon.repository.writer import WriteOptions, writing
from tests.unit.repository.disks import BLOCK, Disk, back_up, new_repository, random_bytes, random_disk

TIME = "2024-01-01T00:00:00Z"


class WatchedStore(MemoryStore):
    """Remembers the largest part that was read at once, and how often each file was read."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0
        self.reads: Counter[FileName] = Counter()

    def load(self, file: FileName, offset: int = 0, length: int | None = None) -> bytes:
        data = super().load(file, offset, length)
        self.largest = max(self.largest, len(data))
        self.reads[file] += 1
        return data


def point_of(nodes: bytes | list[Node]) -> tuple[Repository, str]:
    """A restore point of one directory."""
    repository = new_repository()
    with writing(repository) as writer:
        text = nodes if isinstance(nodes, bytes) else go_json.encode(Tree(nodes))
        tree = writer.save_blob(BlobType.TREE, text)
        return repository, writer.save_snapshot(Snapshot(time=TIME, tree=tree.hex(), paths=["/vm"]))


def node(**fields: object) -> Node:
    return Node(**({"name": "a", "type": "file", "uid": 0, "gid": 0, "content": []} | fields))  # type: ignore[arg-type]


def save_pack(repository: Repository, blobs: list[tuple[BlobType, bytes]], *, index: bool = True) -> bytes:
    """A pack made by hand; returns its id."""
    sealed = [seal(repository.key, plaintext) for _, plaintext in blobs]
    entries = []
    offset = 0
    for (kind, plaintext), text in zip(blobs, sealed, strict=True):
        entries.append(PackedBlob(blob_id(plaintext), kind, offset, len(text), 0))
        offset += len(text)
    content: list[Buffer] = [*sealed, encode_header(repository.key, entries)]
    pack = blob_id(b"".join(content))
    repository.store.save(FileName(FileType.PACK, pack.hex()), content)
    if index:
        repository.files.save(FileType.INDEX, encode_index([(pack, entries)]))
    return pack


def test_an_empty_repository_is_sound() -> None:
    report = check(new_repository(), read_data=Subset())
    assert (report.errors, report.hints, report.bytes_read) == ((), (), 0)


def test_the_report_counts_what_was_looked_at() -> None:
    repository = new_repository()
    content = random_bytes(20 * BLOCK, 1)
    for _ in range(2):
        back_up(repository, Disk(content))
    packs = list(repository.store.list(FileType.PACK))
    progress: list[tuple[int, int]] = []
    report = check(repository, read_data=Subset(), progress=lambda done, total: progress.append((done, total)))
    assert report.sound
    assert (report.snapshots, report.trees, report.blobs, report.packs) == (2, 3, 20 + 3, len(packs))
    assert (report.packs_read, report.bytes_read) == (len(packs), sum(pack.size for pack in packs))
    assert progress[-1] == (report.bytes_read, report.bytes_read)
    assert progress == sorted(progress)


def test_a_tree_that_snapshots_share_is_read_once() -> None:
    store = WatchedStore()
    repository = new_repository(store)
    for _ in range(4):
        back_up(repository, Disk(random_bytes(BLOCK, 1)))
    tree_packs = [
        FileName(FileType.PACK, info.name)
        for info in store.list(FileType.PACK)
        if read_header(repository, bytes.fromhex(info.name), info.size)[0].type is BlobType.TREE
    ]
    store.reads.clear()
    assert check(repository).trees == 3
    assert sum(store.reads[pack] for pack in tree_packs) == 3


@pytest.mark.parametrize(
    ("nodes", "path", "sentence"),
    [
        ([node(content=None)], "/a", "without a list of content"),
        ([node(type="dir", content=None)], "/a", "directory without content"),
        ([node(type="dir", content=None, subtree="00" * 32)], "/a", "directory without content"),
        ([node(type="dir", content=None, subtree="xyz")], "/a", "directory without content"),
        ([node(type="door")], "/a", "type 'door' is unknown"),
        ([node(name="")], "/", "name is none"),
        ([node(name="a/b")], "/a/b", "name is none"),
        ([node(name="a\\")], "/a\\", "no escape sequence"),
        ([node(content=["00" * 32])], "/a", "blobs without an id: 1 of 1"),
        ([node(content=["12" * 32, "34" * 32])], "/a", "blobs in no index: 2 of 2"),
        ([node(content=["12"])], "/", "holds what is no id"),
        ([node(content=["z" * 64])], "/", "holds what is no id"),
        ([node(type="dir", content=None, subtree="12" * 32)], "/a", "cannot find blob"),
        (b"[]", "/", "cannot read a tree"),
    ],
)
def test_a_malformed_directory_is_an_error(nodes: bytes | list[Node], path: str, sentence: str) -> None:
    repository, snapshot = point_of(nodes)
    (error,) = check(repository).errors
    assert sentence in error.sentence
    assert error.affected == (Place(snapshot, path),)
    assert error.what.startswith(("tree ", "data/"))
    assert error.next_step


def test_a_tree_is_no_stand_in_for_data() -> None:
    repository = new_repository()
    with writing(repository) as writer:
        text = encode_tree([])
        tree = writer.save_blob(BlobType.TREE, text)
        root = writer.save_blob(BlobType.TREE, encode_tree([node(content=[tree.hex()])]))
        writer.save_snapshot(Snapshot(time=TIME, tree=root.hex(), paths=["/vm"]))
    assert ["blobs in no index: 1 of 1" in error.sentence for error in check(repository).errors] == [True]


def test_directories_written_with_spaces_are_sound() -> None:
    repository, _ = point_of(b'{ "nodes": [ {"name": "a", "type": "file", "uid": 0, "gid": 0, "content": [ ]} ] }')
    assert check(repository).sound


@pytest.mark.parametrize("depth", [3000])
def test_deep_directories_are_followed_to_the_end(depth: int) -> None:
    repository = new_repository()
    with writing(repository) as writer:
        tree = writer.save_blob(BlobType.TREE, encode_tree([node(content=["12" * 32])]))
        for _ in range(depth):
            tree = writer.save_blob(BlobType.TREE, encode_tree([node(type="dir", content=None, subtree=tree.hex())]))
        snapshot = writer.save_snapshot(Snapshot(time=TIME, tree=tree.hex(), paths=["/vm"]))
    (error,) = check(repository).errors
    assert error.affected == (Place(snapshot, "/a" * (depth + 1)),)


def test_the_map_of_a_large_disk_is_checked_in_parts() -> None:
    """Its list is longer than what is held at once; one blob in the middle is missing."""
    store = WatchedStore()
    repository = new_repository(store)
    with writing(repository, WriteOptions(pack_size=1 << 20)) as writer:
        known = writer.save_blob(BlobType.DATA, b"block")
        ids = random_bytes(32, 1)
        parts = [known * 100_000, ids, known * 100_000]
        tree = writer.save_tree(encode_parts([(file_node("vda.raw", size=1, mtime_ns=1, inode=1), parts)]))
        snapshot = writer.save_snapshot(Snapshot(time=TIME, tree=tree.hex(), paths=["/vm"]))
    (error,) = check(repository).errors
    assert error.sentence == "vda.raw: blobs in no index: 1 of 200001"
    assert error.affected == (Place(snapshot, "/vda.raw"),)


def test_a_snapshot_that_is_none_is_an_error() -> None:
    repository = new_repository()
    names = [
        repository.files.save(FileType.SNAPSHOT, text)
        for text in (b"{}", encode_snapshot(Snapshot(time=TIME, tree="xyz", paths=[])))
    ]
    errors = check(repository).errors
    assert {error.what for error in errors} == {f"snapshots/{name}" for name in names}
    assert {place for error in errors for place in error.affected} == {Place(name, "/") for name in names}


@pytest.mark.parametrize(
    "text",
    [b"[]", b'{"packs":[{"id":"12","blobs":[]}]}', b'{"packs":[{"id":"%b","blobs":[{"id":"1"}]}]}' % (b"12" * 32)],
)
def test_an_index_that_is_none_is_an_error(text: bytes) -> None:
    repository = new_repository()
    name = repository.files.save(FileType.INDEX, text)
    assert [error.what for error in check(repository).errors] == [f"index/{name}"]


def test_without_reading_data_all_that_a_cut_pack_holds_is_suspect() -> None:
    repository = new_repository()
    store = repository.store
    assert isinstance(store, MemoryStore)
    saved = [back_up(repository, Disk(random_bytes(4 * BLOCK, seed))) for seed in (1, 2)]
    data = max((file for file in store.files if file.type is FileType.PACK), key=lambda file: len(store.files[file]))
    store.files[data] = store.files[data][:-1]
    (error,) = check(repository).errors
    assert (error.what, len(error.affected)) == (str(data), 1)
    assert error.affected[0].snapshot in {point.snapshot for point in saved}
    assert check(repository, read_data=Subset()).affected == frozenset(), "only the header was hit"


def test_what_is_harmless_is_a_hint(tmp_path: Path) -> None:
    repository = new_repository(LocalStore(tmp_path))
    orphan = save_pack(repository, [(BlobType.DATA, b"a")], index=False)
    mixed = save_pack(repository, [(BlobType.DATA, b"b"), (BlobType.TREE, b"c")])
    twice = save_pack(repository, [(BlobType.DATA, b"d")])
    blobs = read_header(repository, twice, repository.store.size(FileName(FileType.PACK, twice.hex())))
    repository.files.save(FileType.INDEX, encode_index([(twice, blobs)]))
    save_pack(repository, [(BlobType.DATA, b"b")])  # a blob in two packs is not even worth a hint
    leftover = tmp_path / "index" / f"{'a' * 64}-tmp-1234"
    leftover.touch()
    os.utime(leftover, (0, 0))
    report = check(repository, read_data=Subset())
    assert report.sound
    assert {hint.what for hint in report.hints} == {
        *(f"data/{pack.hex()}" for pack in (orphan, mixed, twice)),
        f"index/{leftover.name}",
    }


def test_a_blob_that_one_of_two_packs_has_undamaged_affects_nothing() -> None:
    repository = new_repository()
    saved = back_up(repository, Disk(random_bytes(BLOCK, 1)))
    store = repository.store
    assert isinstance(store, MemoryStore)
    save_pack(repository, [(BlobType.DATA, random_bytes(BLOCK, 1))])
    for file in [file for file in store.files if file.type is FileType.PACK]:
        damaged = Repository(MemoryStore(), repository.key, repository.config)
        assert isinstance(damaged.store, MemoryStore)
        damaged.store.files = store.files | {file: bytes([store.files[file][0] ^ 1]) + store.files[file][1:]}
        report = check(damaged, read_data=Subset(), no_lock=True)
        tree = read_header(repository, bytes.fromhex(file.name), len(store.files[file]))[0].type is BlobType.TREE
        assert [error.what for error in report.errors] == [str(file)]
        assert report.affected == ({saved.snapshot} if tree else frozenset())


def test_an_index_that_says_other_than_the_pack_is_an_error() -> None:
    repository = new_repository()
    pack = save_pack(repository, [(BlobType.DATA, b"one"), (BlobType.DATA, b"two")], index=False)
    first, second = read_header(repository, pack, repository.store.size(FileName(FileType.PACK, pack.hex())))
    swapped = [first._replace(id=second.id), second._replace(id=first.id)]
    repository.files.save(FileType.INDEX, encode_index([(pack, swapped)]))
    (error,) = check(repository, read_data=Subset()).errors
    assert "its header is not what the index says" in error.sentence
    assert "blobs that do not open: 2 of 2" in error.sentence


def test_a_large_pack_is_read_in_parts() -> None:
    """Blobs across the borders of the parts, and one larger than what is held at once."""
    store = WatchedStore()
    repository = new_repository(store)
    large = random_bytes(17 << 20, 1)
    pack = save_pack(
        repository, [(BlobType.DATA, random_bytes(3 << 20, seed)) for seed in range(5)] + [(BlobType.DATA, large)]
    )
    size = len(store.files[FileName(FileType.PACK, pack.hex())])
    blobs = read_header(repository, pack, size)
    verdict = read_pack(repository, pack, size, blobs)
    assert (verdict.faults, verdict.lost, sorted(verdict.sound)) == ((), (), sorted(blobs))
    assert store.largest <= 4 << 20


@pytest.mark.parametrize("exclusive", [False, True])
def test_a_check_goes_together_with_a_backup_but_not_with_a_prune(exclusive: bool) -> None:
    repository = new_repository()
    with lock.held(repository.files, exclusive=exclusive):
        if exclusive:
            with pytest.raises(RepositoryLockedError):
                check(repository)
        else:
            assert check(repository).sound
        assert check(repository, no_lock=True).sound


def test_while_a_backup_runs_nothing_looks_damaged() -> None:
    """A whole backup happens between any two things that the check lists."""

    class BusyStore(MemoryStore):
        busy = False

        def list(self, type: FileType) -> Iterator[FileInfo]:
            found = list(super().list(type))
            if self.busy:
                self.busy = False
                back_up(Repository(self, repository.key, repository.config), Disk(random_disk(len(self.files))))
                self.busy = True
            return iter(found)

    store = BusyStore()
    repository = new_repository(store)
    back_up(repository, Disk(random_disk(0)))
    store.busy = True
    report = check(repository, no_lock=True)
    assert report.errors == ()
    assert len(list(store.list(FileType.SNAPSHOT))) > report.snapshots


PACKS = {bytes([number]) * 32: 100 for number in range(256)}


@pytest.mark.parametrize(
    ("text", "count"),
    [("100%", 256), ("50%", 128), ("0.5%", 1), ("0.01%", 1), ("2560", 25), ("1K", 10), ("1T", 256), ("5m", 256)],
)
def test_a_subset_by_share_or_size_is_random_and_never_empty(text: str, count: int) -> None:
    subset = Subset.parse(text)
    chosen = subset.choose(PACKS)
    assert len(set(chosen)) == len(chosen) == count
    assert subset.choose({}) == []


@pytest.mark.parametrize("of", [1, 2, 7, 256])
def test_buckets_together_are_everything_each_once(of: int) -> None:
    buckets = [Subset.parse(f"{number}/{of}").choose(PACKS) for number in range(1, of + 1)]
    assert sorted(pack for bucket in buckets for pack in bucket) == sorted(PACKS)
    assert buckets[0][0] == bytes(32), "the first byte counts, as in restic"


@pytest.mark.parametrize("text", ["", "0/2", "3/2", "1/257", "0%", "101%", "0", "-1", "5X", "1/2/3", "half", "١/٢"])
def test_a_subset_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="subset"):
        Subset.parse(text)


def test_only_the_subset_is_read() -> None:
    repository = new_repository()
    packs = [save_pack(repository, [(BlobType.DATA, bytes([number]))]) for number in range(8)]
    chosen = Subset.parse("1/2").choose(dict.fromkeys(packs, 1))
    assert check(repository, read_data=Subset.parse("1/2")).packs_read == len(chosen)


def test_what_no_repair_can_find_is_answered_with_the_restore_points_to_forget() -> None:
    repository, snapshot = point_of([node(content=["12" * 32])])
    (error,) = check(repository).errors
    assert "repair index" not in error.next_step
    assert f"restic forget {snapshot[:8]}" in error.next_step
    save_pack(repository, [(BlobType.DATA, b"a")], index=False)
    (error,) = check(repository).errors
    assert "repair index" in error.next_step, "it may find the blob in the pack that no index names"
