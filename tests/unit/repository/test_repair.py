# SPDX-License-Identifier: Apache-2.0
"""Repair makes the index say what is there, in an order that can be broken off anywhere, and touches nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from donjon.errors import RepositoryLockedError, StoreError
from donjon.repository import lock
from donjon.repository.check import check
from donjon.repository.format.blob import BlobType
from donjon.repository.format.index_file import decode_index, encode_index
from donjon.repository.pack_reading import Subset, read_header
from donjon.repository.repair import RepairReport, SavedPack, repair_index
from donjon.repository.repository import Repository
from donjon.repository.store import FileName, FileType
from donjon.repository.stores.local import LocalStore
from donjon.repository.stores.memory import MemoryStore
from donjon.testing.faults import Faults
from tests.unit.repository.disks import BLOCK, Disk, back_up, new_repository, random_bytes, restored

CONTENT = random_bytes(20 * BLOCK, 1)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def repository(store: MemoryStore) -> Repository:
    """Two restore points, each with an index file of its own."""
    repository = new_repository(store)
    back_up(repository, Disk(CONTENT))
    back_up(repository, Disk(CONTENT[BLOCK:]), name="other")
    return repository


def names(store: MemoryStore, type: FileType) -> list[str]:
    return sorted(info.name for info in store.list(type))


def drop_index(store: MemoryStore) -> None:
    for name in names(store, FileType.INDEX):
        store.delete(FileName(FileType.INDEX, name))


def data_pack(repository: Repository) -> FileName:
    for info in sorted(repository.store.list(FileType.PACK)):
        if read_header(repository, bytes.fromhex(info.name), info.size)[0].type is BlobType.DATA:
            return FileName(FileType.PACK, info.name)
    raise AssertionError("no data pack")


def reopened(repository: Repository) -> Repository:
    return Repository(repository.store, repository.key, repository.config)


def assert_all_restores(repository: Repository) -> None:
    fresh = reopened(repository)
    points = {snapshot.paths[0]: name for name, snapshot in fresh.snapshots()}
    assert restored(fresh, points["/vm"], "vm") == CONTENT
    assert restored(fresh, points["/other"], "other") == CONTENT[BLOCK:]


def indexed_packs(repository: Repository, store: MemoryStore) -> list[str]:
    files = [repository.files.load(FileType.INDEX, name) for name in names(store, FileType.INDEX)]
    return sorted(pack.id for text in files for pack in decode_index(text))


@pytest.mark.parametrize("read_all_packs", [False, True])
def test_of_a_sound_repository_nothing_is_changed(
    repository: Repository, store: MemoryStore, read_all_packs: bool
) -> None:
    before = dict(store.files)
    report = repair_index(repository, read_all_packs=read_all_packs)
    assert not report.changed
    assert store.files == before


@pytest.mark.parametrize("read_all_packs", [False, True])
def test_an_index_that_is_lost_is_built_anew(repository: Repository, store: MemoryStore, read_all_packs: bool) -> None:
    drop_index(store)
    report = repair_index(repository, read_all_packs=read_all_packs)
    assert report.adopted == names(store, FileType.PACK) == indexed_packs(repository, store)
    assert check(reopened(repository), read_data=Subset()).hints == ()
    assert_all_restores(repository)


def test_only_index_files_that_are_wrong_are_written_anew(repository: Repository, store: MemoryStore) -> None:
    wrong, right = names(store, FileType.INDEX)
    pack = decode_index(repository.files.load(FileType.INDEX, wrong))[0].id
    store.delete(FileName(FileType.PACK, pack))
    report = repair_index(repository)
    assert (report.rewritten, report.missing) == ([wrong], [pack])
    assert right in names(store, FileType.INDEX)
    assert indexed_packs(repository, store) == names(store, FileType.PACK)


def test_a_pack_that_several_index_files_name_is_named_once(repository: Repository, store: MemoryStore) -> None:
    before = names(store, FileType.INDEX)
    packs = {pack.id: pack for name in before for pack in decode_index(repository.files.load(FileType.INDEX, name))}
    file = data_pack(repository)
    blobs = read_header(repository, bytes.fromhex(file.name), store.size(file))
    repository.files.save(FileType.INDEX, encode_index([(bytes.fromhex(file.name), blobs)] * 2))
    repair_index(repository)
    assert indexed_packs(repository, store) == sorted(packs)
    assert check(reopened(repository), read_data=Subset()).hints == ()


def test_an_index_that_says_other_than_the_pack_is_corrected(repository: Repository, store: MemoryStore) -> None:
    drop_index(store)
    repair_index(repository)
    (name,) = names(store, FileType.INDEX)
    file = data_pack(repository)
    blobs = read_header(repository, bytes.fromhex(file.name), store.size(file))
    others = [
        (
            bytes.fromhex(other),
            read_header(repository, bytes.fromhex(other), store.size(FileName(FileType.PACK, other))),
        )
        for other in names(store, FileType.PACK)
        if other != file.name
    ]
    store.delete(FileName(FileType.INDEX, name))
    repository.files.save(FileType.INDEX, encode_index([(bytes.fromhex(file.name), blobs[:-1]), *others]))
    assert repair_index(repository).adopted == [file.name]
    assert check(reopened(repository), read_data=Subset()).hints == ()


def test_the_sound_blobs_of_a_damaged_pack_are_stored_anew(repository: Repository, store: MemoryStore) -> None:
    file = data_pack(repository)
    count = len(read_header(repository, bytes.fromhex(file.name), store.size(file)))
    store.files[file] = b"\0" * 4 + store.files[file][4:]
    assert not repair_index(repository).changed, "that takes reading it"
    report = repair_index(repository, read_all_packs=True)
    assert report.damaged == [SavedPack(file.name, count - 1, 1)]
    assert file not in store.files
    assert all("blobs in no index: 1 of" in error.sentence for error in check(reopened(repository)).errors)
    back_up(reopened(repository), Disk(CONTENT))
    assert check(reopened(repository), read_data=Subset()).sound


def test_damaged_files_are_kept_under_another_name_where_the_store_can(tmp_path: Path) -> None:
    repository = new_repository(LocalStore(tmp_path))
    back_up(repository, Disk(CONTENT))
    index = next(path for path in (tmp_path / "index").iterdir())
    pack = tmp_path / "data" / data_pack(repository).name[:2] / data_pack(repository).name
    for path in (index, pack):
        path.chmod(0o600)
        path.write_bytes(path.read_bytes()[:-1])
    wrong = {path: path.read_bytes() for path in (index, pack)}
    repair_index(reopened(repository), read_all_packs=True)
    assert not index.exists()
    assert index.with_name(f"{index.name}.damaged").read_bytes() == wrong[index]
    assert pack.exists(), "no index that can be read names it: nobody knows what it may hold"


def test_a_pack_that_nobody_can_read_is_left_alone(repository: Repository, store: MemoryStore) -> None:
    unknown = FileName(FileType.PACK, "ab" * 32)
    store.files[unknown] = b"not a pack"
    report = repair_index(repository, read_all_packs=True)
    assert report.unreadable == [unknown.name]
    assert not report.changed
    assert unknown in store.files


@pytest.mark.parametrize("read_all_packs", [False, True])
def test_a_dry_run_tells_what_would_be_done_and_writes_nothing(
    repository: Repository, store: MemoryStore, read_all_packs: bool
) -> None:
    first, _ = names(store, FileType.INDEX)
    store.files[FileName(FileType.INDEX, first)] = b"damaged"
    file = data_pack(repository)
    store.files[file] = store.files[file][:-1]
    before = dict(store.files)
    tried = repair_index(repository, read_all_packs=read_all_packs, dry_run=True)
    assert store.files == before
    done = repair_index(repository, read_all_packs=read_all_packs)
    tried.dry_run = False
    assert tried == done
    assert tried.changed


def test_nobody_else_may_be_at_work(repository: Repository) -> None:
    with lock.held(repository.files):
        assert repair_index(repository, dry_run=True) == RepairReport(dry_run=True)
        with pytest.raises(RepositoryLockedError):
            repair_index(repository)


def test_a_repair_may_be_broken_off_anywhere(repository: Repository, store: MemoryStore) -> None:
    """Whatever call fails: all that restored before still does after a second repair, without any loss."""
    pack = data_pack(repository)
    store.files[pack] = store.files[pack][:-1]  # of its blobs none is lost, as long as an index names them
    for name in names(store, FileType.INDEX):
        if pack.name not in [entry.id for entry in decode_index(repository.files.load(FileType.INDEX, name))]:
            store.files[FileName(FileType.INDEX, name)] += b"\0"
    before = dict(store.files)
    fail_at = 0
    while True:
        fail_at += 1
        faulty = Faults(store, fail_at, StoreError("cannot"), for_good=True, only={"save", "delete"})
        try:
            repair_index(Repository(faulty, repository.key, repository.config), read_all_packs=True)
            break
        except StoreError:
            lock.unlock(repository.files, remove_all=True)
        repair_index(reopened(repository), read_all_packs=True)
        assert check(reopened(repository), read_data=Subset()).sound
        assert_all_restores(repository)
        store.files = dict(before)
    assert fail_at > 5
