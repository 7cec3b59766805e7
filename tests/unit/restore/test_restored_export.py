# SPDX-License-Identifier: Apache-2.0
"""A disk in a repository is an NBD export like any other: same bytes, same holes, no block read twice in a row."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from donjon.errors import ConfigError
from donjon.nbd.export import ALLOCATION
from donjon.nbd.server import NbdServer
from donjon.repository.block_map import BlockMap
from donjon.repository.format.blob import blob_id
from donjon.repository.reader import BlobCache, Image
from donjon.repository.store import FileName, FileType
from donjon.repository.stores.memory import MemoryStore
from donjon.restore.restored_export import RestoredExport
from donjon.restore.serving import opened_exports, tls_context
from donjon.restore_points import load_manifest
from tests.unit.backup.site import BLOCK, KIB, MIB, Site, disk, machine, new_qcow2, new_raw, qemu, truth
from tests.unit.repository.disks import new_repository

HOLE = 3
DATA = 0


class CountingStore(MemoryStore):
    """Counts which parts of packs are read."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: Counter[tuple[str, int]] = Counter()

    def load(self, file: FileName, offset: int = 0, length: int | None = None) -> bytes:
        if file.type is FileType.PACK:
            self.loads[(file.name, offset)] += 1
        return super().load(file, offset, length)


class Shelf(Site):
    """A VM of two disks in a repository, and what they hold."""

    def __init__(self, folder: Path) -> None:
        self.store = CountingStore()
        images = {"vda": new_qcow2(folder), "vdb": new_raw(folder)}
        super().__init__(machine(*(disk(target, image) for target, image in images.items())), store=self.store)
        self.contents = {"vda": truth(images["vda"]), "vdb": images["vdb"].read_bytes()}
        self.point = self.back_up().restore_point
        self.disks = load_manifest(self.repository, self.point).disks


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


@pytest.fixture
def exports(shelf: Shelf) -> Iterator[dict[str, RestoredExport]]:
    with opened_exports(shelf.repository, shelf.point, shelf.disks) as found:
        shelf.store.loads.clear()
        yield found


def test_qemu_reads_every_byte_and_sees_every_hole(
    shelf: Shelf, exports: dict[str, RestoredExport], tmp_path: Path
) -> None:
    socket = tmp_path / "socket"
    with NbdServer(exports).serving_unix(socket):
        for target, content in shelf.contents.items():
            address = f"nbd+unix:///{target}?socket={socket}"
            copy = tmp_path / "copy"
            qemu("qemu-img", "convert", "-f", "raw", "-O", "raw", address, copy)
            assert copy.read_bytes()[: len(content)] == content
            mapped: list[Any] = json.loads(qemu("qemu-img", "map", "-f", "raw", "--output=json", address))
            holes = [stretch for stretch in mapped if stretch["zero"]]
            assert holes
            for hole in holes:
                assert not any(content[hole["start"] : hole["start"] + hole["length"]])


def test_status_covers_what_was_asked_for_and_is_never_wrong(shelf: Shelf, exports: dict[str, RestoredExport]) -> None:
    chance = random.Random(1)
    for target, content in shelf.contents.items():
        for _ in range(50):
            offset = chance.randrange(len(content))
            length = chance.randrange(1, len(content) - offset + 1)
            stretches = list(exports[target].block_status(ALLOCATION, offset, length))
            assert sum(stretch for stretch, _ in stretches) == length
            assert all(one[1] != other[1] for one, other in pairwise(stretches))
            at = offset
            for stretch, flags in stretches:
                assert stretch > 0
                assert flags == DATA or not any(content[at : at + stretch])
                at += stretch


def test_the_zeros_of_a_huge_disk_are_known_at_once() -> None:
    zero, data = blob_id(bytes(BLOCK)), blob_id(b"data")
    with BlockMap((1 << 18) * BLOCK, BLOCK) as block_map:
        block_map.append(zero, 100_000)
        block_map.append(data)
        block_map.append(zero, (1 << 18) - 100_001)
        with Image(new_repository(), block_map) as image:
            export = RestoredExport(image)
            assert list(export.block_status(ALLOCATION, 0, export.size)) == [
                (100_000 * BLOCK, HOLE),
                (BLOCK, DATA),
                (((1 << 18) - 100_001) * BLOCK, HOLE),
            ]


def test_small_reads_one_after_the_other_load_each_block_once(shelf: Shelf, exports: dict[str, RestoredExport]) -> None:
    content = shelf.contents["vda"]
    buffer = bytearray(4 * KIB)
    for offset in range(0, len(content), len(buffer)):
        exports["vda"].read_into(offset, memoryview(buffer))
        assert buffer == content[offset : offset + len(buffer)]
    assert set(shelf.store.loads.values()) == {1}


def test_who_reads_on_finds_the_next_blocks_there_whoever_else_reads() -> None:
    asked: list[int] = []

    class Noting(BlobCache):
        def load(self, blob: bytes) -> bytes:
            asked.append(blob[0])
            return bytes(BLOCK)

    repository = new_repository()
    with BlockMap(64 * BLOCK, BLOCK) as block_map:
        for block in range(64):
            block_map.append(bytes([block]) * 32)
        with Image(repository, block_map, Noting(repository)) as image:
            for block in (10, 40, 11):
                image.read(block * BLOCK, 512)
            deadline = time.monotonic() + 10
            while len(asked) < 7 and time.monotonic() < deadline:
                time.sleep(0.01)
    assert set(asked) == {10, 40, 11, 12, 13, 14, 15}


def test_certificates_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot use the certificates") as error:
        tls_context(tmp_path)
    assert "server-cert.pem" in (error.value.hint or "")


def test_a_disk_whose_last_block_is_short_ends_where_it_ends(exports: dict[str, RestoredExport], shelf: Shelf) -> None:
    export = exports["vdb"]
    assert export.size == len(shelf.contents["vdb"]) == 3 * MIB + 1000
    buffer = bytearray(1000)
    export.read_into(3 * MIB, memoryview(buffer))
    assert buffer == shelf.contents["vdb"][3 * MIB :]
