# SPDX-License-Identifier: Apache-2.0
"""What the store does not give back as it was stored is not built upon."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from donjon.errors import IntegrityError, StoreError
from donjon.repository.repository import Repository
from donjon.repository.store import FileInfo, FileName, FileType
from donjon.repository.stores.memory import MemoryStore
from donjon.trace import listening
from tests.unit.backup.site import MIB, Site, bitmaps, disk, machine, new_qcow2, qemu_io, restored, truth
from tests.unit.repository.disks import PASSWORD

Damage = Callable[["Forgetful", FileName], None]


class Forgetful(MemoryStore):
    """A store that harms the newest file of a type once a snapshot is saved."""

    def __init__(self) -> None:
        super().__init__()
        self.armed = False
        self.saved: list[FileName] = []
        self.out_of_reach = False

    def save(self, file: FileName, content: object) -> None:
        super().save(file, content)  # type: ignore[arg-type]
        self.saved.append(file)

    def list(self, type: FileType) -> Iterator[FileInfo]:
        if self.out_of_reach:
            raise StoreError("cannot reach the store")
        return super().list(type)


def flip(store: Forgetful, file: FileName) -> None:
    content = bytearray(store.files[file])
    content[len(content) // 2] ^= 1
    store.files[file] = bytes(content)


def cut(store: Forgetful, file: FileName) -> None:
    store.files[file] = store.files[file][:-1]


def lose(store: Forgetful, file: FileName) -> None:
    del store.files[file]


@pytest.mark.parametrize("damage", [flip, cut, lose])
@pytest.mark.parametrize("kind", [FileType.SNAPSHOT, FileType.INDEX, FileType.PACK])
def test_a_damaged_restore_point_is_named_and_not_built_upon(tmp_path: Path, kind: FileType, damage: Damage) -> None:
    image, store = new_qcow2(tmp_path), Forgetful()
    site = Site(machine(disk("vda", image)), store=store)
    first = site.back_up().restore_point
    old, then = bitmaps(image), truth(image)
    qemu_io(image, "write -P 99 1M 4k")

    def harm(at: str) -> None:
        if at == "writer.snapshot-saved":
            damage(store, [file for file in store.saved if file.type is kind][-1])

    with listening(harm), pytest.raises(IntegrityError, match="cannot read back the restore point") as failed:
        site.back_up()
    (snapshot,) = [file.name for file in store.saved if file.type is FileType.SNAPSHOT and file.name != first.id]
    assert snapshot[:8] in str(failed.value)
    assert "donjon check" in (failed.value.hint or "")
    assert (bitmaps(image), site.ledger.debts()) == (old, [])
    assert restored(site.repository, first) == then


def test_a_data_pack_cut_short_is_noticed_though_no_tree_is_in_it(tmp_path: Path) -> None:
    image, store = new_qcow2(tmp_path), Forgetful()
    site = Site(machine(disk("vda", image)), store=store)

    def harm(at: str) -> None:
        if at == "writer.snapshot-saved":
            cut(
                store,
                max((file for file in store.saved if file.type is FileType.PACK), key=lambda it: len(store.files[it])),
            )

    with listening(harm), pytest.raises(IntegrityError, match=r"pack \w+ has \d+ bytes instead of"):
        site.back_up()


def test_a_store_that_goes_away_after_the_commit_leaves_the_old_base(tmp_path: Path) -> None:
    image, store = new_qcow2(tmp_path), Forgetful()
    site = Site(machine(disk("vda", image)), store=store)
    site.back_up()
    old = bitmaps(image)
    qemu_io(image, f"write -P 99 {MIB} 4k")

    def go(at: str) -> None:
        store.out_of_reach = store.out_of_reach or at == "backup.committed"

    with listening(go), pytest.raises(StoreError, match="cannot read back the restore point"):
        site.back_up()
    store.out_of_reach = False
    assert (bitmaps(image), site.ledger.debts()) == (old, [])
    site.repository = Repository.open(store, PASSWORD)
    report = site.back_up()
    assert report.disks[0].kept == 0
    assert site.restored() == truth(image)
    assert bitmaps(image) == {site.checkpoint()}


def test_all_is_read_back_before_the_old_base_goes(tmp_path: Path) -> None:
    image = new_qcow2(tmp_path)
    site = Site(machine(disk("vda", image)))
    site.back_up()
    qemu_io(image, "write -P 99 1M 4k")
    seen: dict[str, int] = {}
    with listening(lambda at: seen.setdefault(at, len(bitmaps(image)) if at.startswith("backup.") else 0)):
        site.back_up()
    assert list(seen).index("backup.committed") < list(seen).index("backup.reread")
    assert (seen["backup.committed"], seen["backup.reread"], len(bitmaps(image))) == (2, 2, 1)
