# SPDX-License-Identifier: Apache-2.0
"""Read a restore point back from the store that has just been given it, before anything is built upon it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass

from donjon.errors import FileMissingError, IntegrityError, StoreError
from donjon.model.restore_point import Manifest, RestorePoint
from donjon.repository.block_map import BlockMap
from donjon.repository.format.index_file import IndexedPack, decode_index, packed_blobs
from donjon.repository.format.pack import header_length
from donjon.repository.repository import Repository
from donjon.repository.store import FileName, FileType
from donjon.restore_points import (
    find_disk_tree,
    load_definition,
    load_disk,
    load_live_definition,
    load_manifest,
    load_restore_point,
)

_HINT = "do not rely on it: run `donjon check`, and `donjon repair index` if it says so; the next backup reads all"


@dataclass(frozen=True, slots=True)
class Expected:
    """What must be in the store: as it was when it was given away.

    `trees` are the ids of the disks' directories by target; `block_maps` are the maps of those that are new. `packs`
    are the ids of the new packs, and `old_indexes` the names of the index files in which they need not be looked for.
    """

    point: RestorePoint
    manifest: Manifest
    definition: str | None
    live_definition: str | None
    trees: Mapping[str, bytes]
    block_maps: Mapping[str, BlockMap]
    packs: Collection[bytes]
    old_indexes: Collection[str]


def reread(repository: Repository, expected: Expected) -> None:
    """Do nothing if the store gives all back that leads to the disks' blocks, and has the packs that hold them.

    The blocks themselves are not read: that is for `donjon check --read-data`.

    Raises:
        IntegrityError: something is damaged, missing, or not what was stored.
        StoreError: the store cannot be read.
    """
    point = expected.point
    what = f"cannot read back the restore point {point.id[:8]} of {point.vm_name} that was just stored"
    try:
        _reread_packs(repository, expected)
        _reread_point(repository, expected)
    except FileMissingError as error:
        raise IntegrityError(f"{what}: {error}", hint=_HINT) from error
    except StoreError as error:
        raise StoreError(f"{what}: {error}", hint=_HINT) from error
    except IntegrityError as error:
        raise IntegrityError(f"{what}: {error}", hint=_HINT) from error


def _reread_packs(repository: Repository, expected: Expected) -> None:
    """Every new pack is named by an index file, and as long as that says."""
    unnamed = set(expected.packs)
    for info in list(repository.store.list(FileType.INDEX)):
        if not unnamed:
            return
        if info.name in expected.old_indexes:
            continue
        for pack in decode_index(repository.files.load(FileType.INDEX, info.name)):
            if bytes.fromhex(pack.id) in unnamed:
                unnamed.remove(bytes.fromhex(pack.id))
                _check_size(repository, pack)
    if unnamed:
        raise IntegrityError(f"no index file names pack {unnamed.pop().hex()[:16]}")


def _check_size(repository: Repository, pack: IndexedPack) -> None:
    size = repository.store.size(FileName(FileType.PACK, pack.id))
    wanted = sum(blob.length for blob in pack.blobs) + header_length(packed_blobs(pack))
    if size != wanted:
        raise IntegrityError(f"pack {pack.id[:16]} has {size} bytes instead of {wanted}")


def _reread_point(repository: Repository, expected: Expected) -> None:
    point = expected.point
    found = load_restore_point(repository, point.id)
    _check_same("the snapshot", found, point)
    _check_same("donjon.json", load_manifest(repository, found), expected.manifest)
    _check_same("the definition", load_definition(repository, found), expected.definition)
    _check_same("the live definition", load_live_definition(repository, found), expected.live_definition)
    for disk in expected.manifest.disks:
        _check_same(f"disk {disk.target}", find_disk_tree(repository, found, disk), expected.trees[disk.target])
        if block_map := expected.block_maps.get(disk.target):
            with closing(load_disk(repository, found, disk)) as read_back:
                _check_same(f"disk {disk.target}", read_back.equals(block_map), True)


def _check_same(what: str, found: object, stored: object) -> None:
    if found != stored:
        raise IntegrityError(f"{what} is not what was stored")
