# SPDX-License-Identifier: Apache-2.0
"""What stats count, and how the objects of a repository are listed and shown."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from donjon.errors import ConfigError, FileMissingError, IntegrityError
from donjon.repository.format.blob import BlobType, blob_id
from donjon.repository.lock import held
from donjon.repository.objects import LISTABLE, list_objects, resolve, show
from donjon.repository.pack_reading import read_header
from donjon.repository.repository import Repository
from donjon.repository.stats import compute_stats
from donjon.repository.store import FileName, FileType
from donjon.repository.stores.local import LocalStore
from donjon.repository.stores.memory import MemoryStore
from tests.unit.repository.disks import BLOCK, PASSWORD, Disk, back_up, new_repository, random_bytes

CONTENT = random_bytes(20 * BLOCK, 1) + bytes(60 * BLOCK) + b"tail"


@pytest.fixture
def repository() -> Repository:
    repository = new_repository()
    back_up(repository, Disk(CONTENT))
    back_up(repository, Disk(CONTENT + b"more"))
    return repository


def restic(folder: Path, *arguments: str) -> str:
    command = ["restic", "--no-cache", "-r", str(folder), *arguments]
    environment = os.environ | {"RESTIC_PASSWORD": PASSWORD}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_an_empty_repository_holds_nothing() -> None:
    stats = compute_stats(new_repository())
    assert (stats.snapshots, stats.restore_size, stats.stored_size) == (0, 0, 0)
    assert (stats.compression_ratio, stats.dedup_ratio) == (1.0, 1.0)


def test_a_blob_counts_once_and_a_disk_every_time(repository: Repository) -> None:
    stats = compute_stats(repository)
    assert (stats.snapshots, stats.files) == (2, 2)
    assert stats.restore_size == 2 * len(CONTENT) + 4
    # 20 random blocks, one of zeros, two tails; three trees a snapshot, of which two snapshots share none.
    assert stats.blobs == 20 + 1 + 2 + 6
    assert stats.dedup_ratio == pytest.approx(stats.restore_size / stats.plain_size)
    assert 7 > stats.dedup_ratio > 5
    assert stats.compression_ratio > 1


def test_stats_of_one_snapshot_leave_the_other_out(repository: Repository) -> None:
    sizes = {compute_stats(repository, [name]).restore_size for name, _ in repository.snapshots()}
    assert sizes == {len(CONTENT), len(CONTENT) + 4}


def test_what_is_stored_twice_or_needed_by_nobody_does_not_count(repository: Repository) -> None:
    before = compute_stats(repository)
    gone = back_up(repository, Disk(random_bytes(5 * BLOCK, 2)))
    repository.store.delete(FileName(FileType.SNAPSHOT, gone.snapshot))
    assert compute_stats(repository) == before


def test_what_is_missing_cannot_be_counted(repository: Repository) -> None:
    for name in list_objects(repository, "index"):
        repository.store.delete(FileName(FileType.INDEX, name))
    with pytest.raises(IntegrityError):
        compute_stats(Repository(repository.store, repository.key, repository.config))


@pytest.mark.interop
def test_restic_counts_the_same(tmp_path: Path) -> None:
    repository = new_repository(LocalStore(tmp_path))
    for content in (CONTENT, CONTENT + b"more"):
        back_up(repository, Disk(content))
    stats = compute_stats(repository)
    raw = json.loads(restic(tmp_path, "stats", "--json", "--mode", "raw-data"))
    assert raw["total_size"] == stats.stored_size
    assert raw["total_blob_count"] == stats.blobs
    restored = json.loads(restic(tmp_path, "stats", "--json", "--mode", "restore-size"))
    assert restored["total_size"] == stats.restore_size


@pytest.mark.interop
def test_lists_and_contents_are_those_of_restic(tmp_path: Path) -> None:
    repository = new_repository(LocalStore(tmp_path))
    back_up(repository, Disk(CONTENT))
    for kind in set(LISTABLE) - {"locks"}:
        assert sorted(list_objects(repository, kind)) == sorted(restic(tmp_path, "list", kind).splitlines()), kind
    for kind, name in (("index", "index"), ("snapshot", "snapshots")):
        for file in list_objects(repository, name):
            ours = json.loads(b"".join(show(repository, kind, file)))
            theirs = json.loads(restic(tmp_path, "cat", kind, file))
            assert {key: ours[key] for key in theirs} == theirs
    assert json.loads(b"".join(show(repository, "config"))) == json.loads(restic(tmp_path, "cat", "config"))
    master = json.loads(restic(tmp_path, "cat", "masterkey"))  # without the bits of "r" that do not count
    assert json.loads(b"".join(show(repository, "masterkey")))["encrypt"] == master["encrypt"]


def test_every_kind_of_object_can_be_shown(repository: Repository) -> None:
    store = repository.store
    assert isinstance(store, MemoryStore)
    key, pack, index, snapshot = (
        next(list_objects(repository, kind)) for kind in ("keys", "packs", "index", "snapshots")
    )
    assert b"".join(show(repository, "key", key[:8])) == store.files[FileName(FileType.KEY, key)]
    assert b"".join(show(repository, "pack", pack)) == store.files[FileName(FileType.PACK, pack)]
    assert b'"packs":' in b"".join(show(repository, "index", index[:20]))
    assert b'"paths":["/vm"]' in b"".join(show(repository, "snapshot", snapshot[:20]))
    assert b'"nodes":[{"name":"vm"' in b"".join(show(repository, "tree", snapshot[:20]))
    assert b'"chunker_polynomial"' in b"".join(show(repository, "config"))
    with held(repository.files):
        assert b'"pid":%d' % os.getpid() in b"".join(show(repository, "lock", next(list_objects(repository, "locks"))))


def test_a_blob_is_shown_by_its_id_whatever_its_type(repository: Repository) -> None:
    block = CONTENT[:BLOCK]
    assert b"".join(show(repository, "blob", blob_id(block).hex())) == block
    assert b"".join(show(repository, "blob", blob_id(block).hex()[:30])) == block
    blobs = [line.split() for line in list_objects(repository, "blobs")]
    tree = next(name for kind, name in blobs if kind == "tree")
    assert b"".join(show(repository, "blob", tree)) == b"".join(show(repository, "tree", tree))
    with pytest.raises(FileMissingError):
        show(repository, "tree", blob_id(block).hex())


def test_blobs_are_listed_with_their_types(repository: Repository) -> None:
    expected = [
        f"{'tree' if blob.type is BlobType.TREE else 'data'} {blob.id.hex()}"
        for info in repository.store.list(FileType.PACK)
        for blob in read_header(repository, bytes.fromhex(info.name), info.size)
    ]
    assert sorted(list_objects(repository, "blobs")) == sorted(expected)


def test_the_master_key_is_shown_only_when_called_by_its_name(repository: Repository) -> None:
    secret = repository.key.encrypt
    shown = json.loads(b"".join(show(repository, "masterkey")))
    assert shown["encrypt"] and secret.hex() not in repr(repository.key)
    keys = b"".join(show(repository, "key", next(list_objects(repository, "keys"))))
    assert shown["encrypt"].encode() not in keys + b"".join(show(repository, "config"))


@pytest.mark.parametrize(("prefix", "error"), [("", ConfigError), ("a", ConfigError), ("c", FileMissingError)])
def test_a_prefix_must_mean_one_object(prefix: str, error: type[Exception]) -> None:
    assert resolve(["ab", "ac", "b"], "ab", "key") == "ab"
    with pytest.raises(error):
        resolve(["ab", "ac", "b"], prefix, "key")


def test_unknown_kinds_are_refused(repository: Repository) -> None:
    with pytest.raises(ConfigError, match="none of"):
        list_objects(repository, "disks")
    with pytest.raises(ConfigError, match="none of"):
        show(repository, "disk", "12")
