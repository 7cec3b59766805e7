# SPDX-License-Identifier: Apache-2.0
"""Whatever is damaged in a repository is found and named, all else restores, and nothing restores wrong in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from donjon.errors import (
    DonjonError,
    IntegrityError,
    NoRepositoryError,
    RepositoryLockedError,
    WrongPasswordError,
)
from donjon.repository import lock
from donjon.repository.check import check
from donjon.repository.check_report import CheckReport, Place
from donjon.repository.pack_reading import Subset
from donjon.repository.repair import repair_index
from donjon.repository.repository import Repository
from donjon.repository.store import FileName, FileType
from donjon.repository.stores.local import LocalStore
from donjon.repository.stores.memory import MemoryStore
from tests.damage.example import (
    DAMAGES,
    OTHER_PASSWORD,
    Example,
    Point,
    back_up,
    build,
    delete,
    restic_finds_it_sound,
    spill,
    unrestorable,
)
from tests.unit.repository.disks import PASSWORD

ALL = Subset()
FOUND_BY_CHECK = ("index", "snapshot", "tree pack", "data pack")
EVERY_DAMAGE = pytest.mark.parametrize("damage", DAMAGES)


@pytest.fixture(scope="module")
def example() -> Example:
    return build()


def damaged(example: Example, kind: str, damage: str) -> tuple[MemoryStore, FileName, FileName]:
    store = example.store()
    file, other = example.targets[kind]
    DAMAGES[damage](store, file, other)
    return store, file, other


def look(store: MemoryStore, password: str = PASSWORD) -> CheckReport:
    return check(Repository.open(store, password), read_data=ALL, no_lock=True)


def affected(report: CheckReport, example: Example) -> set[Point]:
    """The disks that the report says cannot be relied on."""
    places = {place for error in report.errors for place in error.affected}
    return {
        (snapshot, disk)
        for snapshot, disk in example.disks
        if any(Place(snapshot, above) in places for above in ("/", "/web", f"/web/{disk}", f"/web/{disk}/vda.raw"))
    }


def unlocked(store: MemoryStore) -> MemoryStore:
    for file in [file for file in store.files if file.type is FileType.LOCK]:
        del store.files[file]
    return store


def test_the_example_is_sound(example: Example, tmp_path: Path) -> None:
    report = look(example.store())
    assert (report.errors, report.hints) == ((), ())
    assert report.bytes_read == sum(len(data) for file, data in example.files.items() if file.type is FileType.PACK)
    assert unrestorable(example.store(), example.disks) == set()


@EVERY_DAMAGE
@pytest.mark.parametrize("kind", FOUND_BY_CHECK)
def test_damage_is_found_and_named_and_all_else_restores(example: Example, kind: str, damage: str) -> None:
    store, file, other = damaged(example, kind, damage)
    report = look(store)
    if (kind, damage) == ("snapshot", "deleted"):  # as if it had been forgotten
        gone = {point for point in example.disks if point[0] == file.name}
        assert report.sound
        assert unrestorable(store, example.disks) == gone
        return
    assert not report.sound
    assert unrestorable(store, example.disks) == affected(report, example)
    if (kind, damage) != ("index", "deleted"):  # of which only what it named shows that it was there
        assert str(file) in {error.what for error in report.errors}
    if damage.startswith("swapped"):
        assert str(other) in {error.what for error in report.errors}


@EVERY_DAMAGE
@pytest.mark.parametrize("kind", FOUND_BY_CHECK)
def test_repair_and_another_backup_heal_all_but_lost_snapshots(example: Example, kind: str, damage: str) -> None:
    store, file, other = damaged(example, kind, damage)
    repair_index(Repository.open(unlocked(store), PASSWORD), read_all_packs=True)
    repository = Repository.open(store, PASSWORD)
    if kind == "snapshot":
        store.files.pop(file, None)
        if damage.startswith("swapped"):
            store.files.pop(other)
    elif kind == "index":
        assert look(store).sound, "an index is rebuilt without any loss"
    points = list(example.disks)
    for minute, (first, second) in enumerate(zip(points[::2], points[1::2], strict=True)):
        back_up(repository, {"vda": example.disks[first], "vdb": example.disks[second]}, minute)
    assert look(store).errors == ()
    there = {info.name for info in store.list(FileType.SNAPSHOT)}
    remaining = {point: disk for point, disk in example.disks.items() if point[0] in there}
    assert len(remaining) == 4 or kind == "snapshot"
    assert unrestorable(store, remaining) == set()


@pytest.mark.parametrize("damage", [damage for damage in DAMAGES if damage != "deleted"])
def test_nothing_is_written_on_top_of_a_damaged_index(example: Example, damage: str) -> None:
    store, file, other = damaged(example, "index", damage)
    repository = Repository.open(unlocked(store), PASSWORD)
    before = dict(store.files)
    for _ in range(2):
        with pytest.raises(IntegrityError, match=f"{file.name}|{other.name}"):
            back_up(repository, {"vda": b"new"})
    assert store.files == before


@EVERY_DAMAGE
def test_a_damaged_config_is_named_when_the_repository_is_opened(example: Example, damage: str) -> None:
    store, _, _ = damaged(example, "config", damage)
    with pytest.raises(NoRepositoryError if damage == "deleted" else IntegrityError, match=r"repository|config"):
        Repository.open(store, PASSWORD)


def test_a_config_damaged_while_the_repository_is_open_is_found(example: Example) -> None:
    store = example.store()
    repository = Repository.open(store, PASSWORD)
    DAMAGES["middle byte flipped"](store, *example.targets["config"])
    assert [error.what for error in check(repository, no_lock=True).errors] == ["config"]


@EVERY_DAMAGE
def test_a_damaged_key_shuts_out_its_own_password_only(example: Example, damage: str) -> None:
    store, file, other = damaged(example, "key", damage)
    with pytest.raises(WrongPasswordError if damage == "deleted" else IntegrityError) as caught:
        Repository.open(store, OTHER_PASSWORD)
    assert damage == "deleted" or file.name[:8] in str(caught.value)
    expected = {str(file)} if damage != "deleted" else set()
    expected |= {str(other)} if damage.startswith("swapped") else set()
    assert {error.what for error in look(store).errors} == expected
    lost = {point for point in example.disks if str(other) in expected and point[0] == other.name}
    assert unrestorable(store, example.disks) == lost


@EVERY_DAMAGE
def test_a_damaged_lock_still_locks_and_endangers_nothing(example: Example, damage: str) -> None:
    store, file, _ = damaged(example, "lock", damage)
    report = look(store)
    assert report.sound
    assert unrestorable(store, example.disks) == set()
    noticed = damage not in ("deleted", "emptied")
    assert (str(file) in {hint.what for hint in report.hints}) == noticed
    repository = Repository.open(store, PASSWORD)
    if noticed:
        with pytest.raises(RepositoryLockedError, match=file.name), lock.held(repository.files):
            pass
    lock.unlock(repository.files, remove_all=True)
    with lock.held(repository.files, exclusive=True):
        pass


@pytest.mark.interop
@pytest.mark.parametrize("damage", ["deleted", "one byte short", "middle byte flipped"])
@pytest.mark.parametrize("kind", ["config", *FOUND_BY_CHECK])
def test_restic_gives_the_same_verdict(example: Example, kind: str, damage: str, tmp_path: Path) -> None:
    store, _, _ = damaged(example, kind, damage)
    folder = spill(unlocked(store), tmp_path)
    try:
        sound = look(store).sound
    except DonjonError:
        sound = False
    assert restic_finds_it_sound(folder) == sound


@pytest.mark.interop
@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        ("index", "deleted"),
        ("index", "middle byte flipped"),
        ("data pack", "one byte short"),
        ("data pack", "last byte flipped"),
        ("tree pack", "byte before the last four flipped"),
        ("data pack", "swapped with another"),
    ],
)
def test_restic_finds_what_was_repaired_sound(example: Example, kind: str, damage: str, tmp_path: Path) -> None:
    store, _, _ = damaged(example, kind, damage)
    repair_index(Repository.open(unlocked(store), PASSWORD), read_all_packs=True)
    assert unrestorable(store, example.disks) == set()
    assert restic_finds_it_sound(spill(store, tmp_path))


@pytest.mark.interop
def test_what_is_set_aside_in_a_directory_does_not_disturb_restic(example: Example, tmp_path: Path) -> None:
    store = unlocked(example.store())
    DAMAGES["last byte flipped"](store, *example.targets["index"])
    DAMAGES["swapped with another"](store, *example.targets["data pack"])
    folder = spill(store, tmp_path)
    repair_index(Repository.open(LocalStore(folder), PASSWORD), read_all_packs=True)
    assert len(list(folder.rglob("*.damaged"))) == 3
    assert restic_finds_it_sound(folder)


def test_both_disks_are_lost_with_the_only_pack_of_trees(example: Example) -> None:
    store = example.store()
    for file in [file for file in store.files if file.type is FileType.PACK]:
        delete(store, file, file)
    report = look(store)
    assert affected(report, example) == set(example.disks) == unrestorable(store, example.disks)
