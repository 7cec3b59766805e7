# SPDX-License-Identifier: Apache-2.0
"""A writer adds what is new, makes it durable in the right order, and commits nothing that is not all there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from donjon import trace
from donjon.errors import DonjonError, HostError, IntegrityError, RefusedError, StoreError
from donjon.repository.format.blob import BlobType, blob_id
from donjon.repository.format.config import Config, new_config
from donjon.repository.format.index_file import decode_index
from donjon.repository.format.snapshot import Snapshot
from donjon.repository.format.tree import dir_node, encode_tree, file_node
from donjon.repository.reader import find_node, load_tree, read_file
from donjon.repository.repository import Repository
from donjon.repository.store import FileName, FileType
from donjon.repository.stores.local import LocalStore
from donjon.repository.stores.memory import MemoryStore
from donjon.repository.writer import WriteOptions, writing
from donjon.testing.faults import Faults
from tests.unit.repository.disks import BLOCK, PASSWORD, Disk, alone, back_up, new_repository, random_bytes, restored

SMALL = WriteOptions(pack_size=2 * BLOCK, workers=2)


def files(repository: Repository, kind: FileType) -> set[str]:
    return {info.name for info in repository.store.list(kind)}


def opened_anew(repository: Repository) -> Repository:
    return Repository.open(repository.store, PASSWORD)


def test_packs_come_before_the_index_and_the_index_before_the_snapshot() -> None:
    repository = new_repository()
    points: list[str] = []
    with trace.listening(points.append):
        back_up(repository, Disk(random_bytes(9 * BLOCK, 1)), options=SMALL)
    order = [point for point in points if point in {"writer.pack-saved", "writer.index-saved", "writer.snapshot-saved"}]
    assert order[-2:] == ["writer.index-saved", "writer.snapshot-saved"]
    assert order.count("writer.pack-saved") >= 5
    assert "writer.index-saved" not in order[:-2]


def test_what_was_not_committed_is_still_found_by_the_next_run() -> None:
    repository = new_repository()
    with alone(repository) as writer:
        blob = writer.save_blob(BlobType.DATA, b"left alone")
        for number in range(40):
            writer.save_blob(BlobType.DATA, b"%d" % number)
    assert not opened_anew(repository).has_blob(BlobType.DATA, blob)  # its pack was never closed
    with alone(repository, WriteOptions(pack_size=1)) as writer:
        blob = writer.save_blob(BlobType.DATA, b"left alone")
    assert opened_anew(repository).load_blob(BlobType.DATA, blob) == b"left alone"


def test_a_pack_that_no_index_names_is_not_relied_on_by_the_next_run() -> None:
    repository = new_repository()
    store = repository.store
    broken = Faults(store, 3, StoreError("cannot save: the disk is full"), only={"save"}, for_good=True)
    repository.store = broken
    repository.files = type(repository.files)(broken, repository.key)
    with pytest.raises(HostError), alone(repository, WriteOptions(pack_size=1, workers=1)) as writer:
        writer.save_blob(BlobType.DATA, b"first")
        writer.save_blob(BlobType.DATA, b"second")
        while broken.calls < 2:
            pass
        raise HostError("cannot read the disk")
    repository.store = store
    repository.files = type(repository.files)(store, repository.key)
    with alone(repository) as writer:
        saved = [writer.save_blob(BlobType.DATA, text) for text in (b"first", b"second")]
        writer.flush()
    anew = opened_anew(repository)
    assert [anew.load_blob(BlobType.DATA, blob) for blob in saved] == [b"first", b"second"]


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_after_a_pack_could_not_be_saved_nothing_is_committed_however_often_it_is_tried(attempts: int) -> None:
    repository = new_repository()
    store = repository.store
    repository.store = Faults(store, 1, StoreError("cannot save: the disk is full"), only={"save"})
    with alone(repository, SMALL) as writer:
        root = writer.save_blob(BlobType.TREE, encode_tree([]))
        for _ in range(attempts):
            with pytest.raises(StoreError, match="full"):
                writer.save_snapshot(Snapshot(time="2026-01-01T00:00:00Z", tree=root.hex(), paths=["/"]))
    assert files(repository, FileType.SNAPSHOT) == set()


class Corrupting:
    """A processor that seals something else than it was given, once."""

    def __init__(self) -> None:
        self.left = 1

    def compress(self, plaintext: bytes) -> bytes | None:
        self.left -= 1
        return None if self.left < 0 else bytes(plaintext[:-1]) + b"?"


def test_verify_notices_a_machine_that_corrupts_what_it_stores() -> None:
    repository = new_repository()
    with alone(repository, WriteOptions(verify=True)) as writer:
        writer._per_thread.compressor = Corrupting()
        with pytest.raises(IntegrityError):
            writer.prepare(BlobType.DATA, b"x" * 100)
        with pytest.raises(IntegrityError, match="never added"):
            writer.flush()


@pytest.mark.parametrize("text", [b"{}", b'{"nodes":[]}\n', encode_tree([file_node("a", size=0, mtime_ns=0, inode=1)])])
def test_trees_are_always_compressed(text: bytes) -> None:
    repository = new_repository()
    with alone(repository) as writer:
        blob = writer.save_blob(BlobType.TREE, text)
        streamed = writer.save_tree([text + b" ", text])
        writer.flush()
    for tree in (blob, streamed):
        assert all(place.uncompressed_length for place in repository.locations(BlobType.TREE, tree))
    assert opened_anew(repository).load_blob(BlobType.TREE, blob) == text


def test_a_tree_in_parts_has_the_id_of_the_whole() -> None:
    repository = new_repository()
    with alone(repository) as writer:
        assert writer.save_tree([b"a" * 100, b"", b"b" * 100]) == blob_id(b"a" * 100 + b"b" * 100)
        assert writer.save_blob(BlobType.TREE, b"a" * 100 + b"b" * 100) == blob_id(b"a" * 100 + b"b" * 100)
        assert writer.written.tree_blobs == 1


def test_data_and_trees_never_share_a_pack() -> None:
    repository = new_repository()
    back_up(repository, Disk(random_bytes(9 * BLOCK, 1)))
    for name in files(repository, FileType.INDEX):
        for pack in decode_index(repository.files.load(FileType.INDEX, name)):
            assert len({blob.type for blob in pack.blobs}) == 1


def test_a_repository_of_version_1_is_read_but_never_written() -> None:
    repository = new_repository()
    saved = back_up(repository, Disk(random_bytes(3 * BLOCK, 1)))
    config = new_config()
    old = Repository(repository.store, repository.key, Config(version=1, id=config.id, chunker_polynomial="3"))
    before = files(old, FileType.LOCK)
    with pytest.raises(RefusedError, match="version 1"), writing(old):
        pass
    assert files(old, FileType.LOCK) == before
    assert restored(old, saved.snapshot) == random_bytes(3 * BLOCK, 1)


def test_a_damaged_index_stops_a_writer_and_says_what_to_do() -> None:
    repository = new_repository()
    back_up(repository, Disk(random_bytes(3 * BLOCK, 1)))
    store = repository.store
    assert isinstance(store, MemoryStore)
    (name,) = files(repository, FileType.INDEX)
    store.files[FileName(FileType.INDEX, name)] += b"!"
    anew = opened_anew(repository)
    for _ in range(2):
        with pytest.raises(IntegrityError, match=name) as caught, alone(anew):
            pass
        assert "repair index" in (caught.value.hint or "")


def save_tree(repository: Repository, text: bytes) -> bytes:
    with alone(repository) as writer:
        blob = writer.save_blob(BlobType.TREE, text)
        writer.flush()
    return blob


@pytest.mark.parametrize("wrong", ["", "00", "zz" * 32, "\u00e9" * 64])
def test_a_tree_that_refers_to_no_blob_is_damage(wrong: str) -> None:
    repository = new_repository()
    node = dir_node("sub", b"\1" * 32, mtime_ns=0, inode=1)
    text = encode_tree([node]).replace(b"01" * 32, wrong.encode())
    with pytest.raises(IntegrityError):
        find_node(repository, save_tree(repository, text), "sub/below")
    node = file_node("file", size=1, mtime_ns=0, inode=1, content=[b"\1" * 32])
    text = encode_tree([node]).replace(b"01" * 32, wrong.encode())
    (damaged,) = load_tree(repository, save_tree(repository, text)).nodes
    with pytest.raises(IntegrityError):
        list(read_file(repository, damaged))


@pytest.mark.parametrize("name", ["a b", 'q"uote', "back\\slash", "line\nfeed", "é\U0001f600", "\u2028", "\udcff"])
def test_a_node_is_found_by_its_name_however_strange(name: str) -> None:
    repository = new_repository()
    with alone(repository) as writer:
        content = writer.save_blob(BlobType.DATA, b"content")
        inner = writer.save_blob(
            BlobType.TREE, encode_tree([file_node(name, size=7, mtime_ns=0, inode=1, content=[content])])
        )
        outer = writer.save_blob(BlobType.TREE, encode_tree([dir_node(name, inner, mtime_ns=0, inode=2)]))
        writer.flush()
    assert b"".join(read_file(repository, find_node(repository, outer, f"{name}/{name}"))) == b"content"


def test_a_name_is_found_whichever_characters_its_writer_thought_printable() -> None:
    repository = new_repository()
    newer = encode_tree([file_node("\U0001fae9", size=0, mtime_ns=0, inode=1)])
    assert b"\\\\U0001fae9" in newer  # this Python does not know the character yet
    for text in (newer, newer.replace(b"\\\\U0001fae9", "\U0001fae9".encode())):
        assert find_node(repository, save_tree(repository, text), "\U0001fae9").type == "file"


def test_every_store_call_of_a_new_repository_can_fail() -> None:
    for after in (False, True):
        for number in range(1, 8):
            store = MemoryStore()
            faults = Faults(store, number, StoreError("cannot"), after=after)
            try:
                new_repository(faults)
            except DonjonError:
                continue
            assert Repository.open(store, PASSWORD)


def test_two_that_create_at_once_do_not_spoil_it_for_the_first() -> None:
    store = MemoryStore()
    first: list[Repository] = []

    class Interrupted(MemoryStore):
        def create(self) -> None:
            first.append(new_repository(store))

    late = Interrupted()
    late.files = store.files
    with pytest.raises(RefusedError):
        new_repository(late)
    assert Repository.open(store, PASSWORD).config == first[0].config
    assert len(files(first[0], FileType.KEY)) == 1


def test_large_packs_are_not_kept_in_memory() -> None:
    """Three of 128 MiB would be more than the whole program may take."""
    program = """
import resource
from donjon.repository.format.blob import BlobType
from donjon.repository.format.keyfile import Scrypt
from donjon.repository.repository import Repository
from donjon.repository.stores.local import LocalStore
from donjon.repository.writer import WriteOptions, writing
from pathlib import Path
import os, sys
repository = Repository.create(LocalStore(Path(sys.argv[1])), "password", scrypt=Scrypt(1024, 8, 1))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with writing(repository, WriteOptions(pack_size=128 << 20)) as writer:
    for _ in range(150):
        writer.save_blob(BlobType.DATA, os.urandom(1 << 20))
    writer.flush()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    with TemporaryDirectory() as folder:
        grown = subprocess.run(
            [sys.executable, "-c", program, f"{folder}/repository"], capture_output=True, text=True, check=True
        )
        repository = Repository.open(LocalStore(Path(folder) / "repository"), "password")
        sizes = sorted(info.size for info in repository.store.list(FileType.PACK))
    assert sizes[-1] >= 128 << 20
    assert int(grown.stdout) < 64 << 10, "KiB"


def test_what_was_in_a_lost_pack_is_stored_anew() -> None:
    """Although the index still names it: a snapshot must not refer to what is not there."""
    repository = new_repository()
    disk = Disk(random_bytes(6 * BLOCK, 1))
    back_up(repository, disk)
    for info in list(repository.store.list(FileType.PACK)):
        repository.store.delete(FileName(FileType.PACK, info.name))
    again = opened_anew(repository)
    with writing(again) as writer:
        blob = writer.save_blob(BlobType.DATA, disk.content[:BLOCK])
        writer.flush()
    assert opened_anew(repository).load_blob(BlobType.DATA, blob) == disk.content[:BLOCK]
