# SPDX-License-Identifier: Apache-2.0
"""Several writers add to one repository at a time, as backups of several VMs do; each commits only what is whole."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from donjon.errors import StoreError
from donjon.repository.check import check
from donjon.repository.format.blob import BlobType
from donjon.repository.format.snapshot import Snapshot
from donjon.repository.format.tree import encode_tree, file_node
from donjon.repository.pack_reading import Subset
from donjon.repository.repository import Repository
from donjon.repository.store import FileName, FileType
from donjon.repository.stores.memory import MemoryStore
from donjon.repository.writer import WriteOptions, Writer
from donjon.testing.faults import Faults
from tests.unit.repository.disks import BLOCK, PASSWORD, Disk, alone, back_up, new_repository, random_bytes, restored

SHARED = b"what both VMs have"
EVERY_BLOB_A_PACK = WriteOptions(pack_size=1, workers=1)


def commit(writer: Writer, content: bytes) -> str:
    """A restore point of one file that holds this."""
    blob = writer.save_blob(BlobType.DATA, content)
    node = file_node("a", size=len(content), mtime_ns=0, inode=1, content=[blob])
    root = writer.save_blob(BlobType.TREE, encode_tree([node]))
    return writer.save_snapshot(Snapshot(time="2026-01-01T00:00:00Z", tree=root.hex(), paths=["/"]))


def wait_until_found(repository: Repository, blob: bytes) -> None:
    while not repository.has_blob(BlobType.DATA, blob):
        pass


def test_what_another_writer_has_stored_and_not_indexed_yet_is_used_and_indexed() -> None:
    repository = new_repository()
    store = repository.store
    assert isinstance(store, MemoryStore)
    with alone(repository, EVERY_BLOB_A_PACK) as first, alone(repository, EVERY_BLOB_A_PACK) as second:
        wait_until_found(repository, first.save_blob(BlobType.DATA, SHARED))
        commit(second, SHARED)
        assert second.written.data_blobs == 0, "it is not stored twice"
        host_dies = dict(store.files)
    left = MemoryStore()
    left.files.update(host_dies)
    assert check(Repository.open(left, PASSWORD), read_data=Subset()).errors == ()


def test_a_writer_that_cannot_index_what_another_relies_on_leaves_that_to_the_other() -> None:
    repository = new_repository()
    store = repository.store
    with alone(repository, EVERY_BLOB_A_PACK) as second:
        with pytest.raises(StoreError), alone(repository, EVERY_BLOB_A_PACK) as first:
            wait_until_found(repository, first.save_blob(BlobType.DATA, SHARED))
            full = Faults(store, 1, StoreError("cannot save: the disk is full"), only={"save"}, for_good=True)
            repository.files = type(repository.files)(full, repository.key)
        repository.files = type(repository.files)(store, repository.key)
        commit(second, SHARED)
    assert check(Repository.open(store, PASSWORD), read_data=Subset()).errors == ()


def test_what_was_left_unindexed_and_pruned_since_is_not_indexed_later() -> None:
    repository = new_repository()
    store = repository.store
    with pytest.raises(StoreError), alone(repository, EVERY_BLOB_A_PACK) as writer:
        wait_until_found(repository, writer.save_blob(BlobType.DATA, SHARED))
        full = Faults(store, 1, StoreError("cannot save: the disk is full"), only={"save"}, for_good=True)
        repository.files = type(repository.files)(full, repository.key)
    repository.files = type(repository.files)(store, repository.key)
    for info in list(store.list(FileType.PACK)):
        store.delete(FileName(FileType.PACK, info.name))
    repository.forget_lost_packs()
    with alone(repository, EVERY_BLOB_A_PACK) as writer:
        commit(writer, SHARED)
    assert check(Repository.open(store, PASSWORD), read_data=Subset()).errors == ()


def test_many_that_back_up_at_a_time_leave_a_sound_repository() -> None:
    repository = new_repository()
    disks = [random_bytes(24 * BLOCK, number % 3) + random_bytes(8 * BLOCK, 100 + number) for number in range(6)]
    together = Barrier(len(disks))

    def run(content: bytes) -> str:
        together.wait()
        return back_up(repository, Disk(content), options=WriteOptions(pack_size=4 * BLOCK, workers=2)).snapshot

    with ThreadPoolExecutor(len(disks)) as threads:
        snapshots = list(threads.map(run, disks))
    anew = Repository.open(repository.store, PASSWORD)
    report = check(anew, read_data=Subset())
    assert (report.errors, report.hints, report.snapshots) == ((), (), len(disks))
    assert [restored(anew, snapshot) for snapshot in snapshots] == disks
