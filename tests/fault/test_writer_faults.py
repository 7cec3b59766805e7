# SPDX-License-Identifier: Apache-2.0
"""Whatever single call fails, or whenever the power goes, a snapshot that is there is whole."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import pytest

from donjon.errors import DonjonError, StoreError
from donjon.repository.lock import Pace, held
from donjon.repository.repository import Repository
from donjon.repository.store import Store
from donjon.repository.stores.local import LocalStore
from donjon.repository.stores.memory import MemoryStore
from donjon.repository.writer import WriteOptions, Writer
from donjon.testing.faults import Faults
from donjon.testing.volatile import PowerCutError, VolatileSystem
from tests.unit.repository.disks import (
    BLOCK,
    PASSWORD,
    Disk,
    alone,
    back_up,
    new_repository,
    random_bytes,
    random_disk,
    restored,
    save_disk,
    save_point,
)

OPTIONS = WriteOptions(pack_size=6 * BLOCK, workers=1)
CONTENT = random_disk(2)


def copy_of(store: MemoryStore) -> MemoryStore:
    copied = MemoryStore()
    copied.files = dict(store.files)
    return copied


@pytest.fixture(scope="module")
def first() -> tuple[MemoryStore, str]:
    store = MemoryStore()
    return store, back_up(new_repository(store), Disk(random_disk(1))).snapshot


def through(store: Store, faults: Store) -> Repository:
    opened = Repository.open(store, PASSWORD)
    return Repository(faults, opened.key, opened.config)


def check(store: Store, before: str) -> int:
    """Every snapshot is whole; returns how many there are."""
    anew = Repository.open(store, PASSWORD)
    snapshots = [name for name, _ in anew.snapshots()]
    assert before in snapshots
    for name in snapshots:
        assert restored(anew, name) == (random_disk(1) if name == before else CONTENT)
    return len(snapshots)


def calls_of_a_backup(first: MemoryStore) -> int:
    counted = Faults(copy_of(first), 0, StoreError("never"))
    back_up(through(first, counted), Disk(CONTENT), options=OPTIONS)
    return counted.calls


@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("after", [False, True], ids=["refused", "reply lost"])
def test_every_call_of_the_store_can_fail(first: tuple[MemoryStore, str], after: bool, for_good: bool) -> None:
    store, before = first
    outcomes = set()
    for number in range(1, calls_of_a_backup(store) + 1):
        damaged = copy_of(store)
        error = StoreError("cannot do it: the network is gone")
        repository = through(damaged, Faults(damaged, number, error, after=after, for_good=for_good))
        try:
            back_up(repository, Disk(CONTENT), options=OPTIONS)
            outcomes.add("done")
        except DonjonError:
            outcomes.add("failed")
        check(damaged, before)
        if not for_good:  # a daemon goes on with the repository that it has open
            back_up(repository, Disk(CONTENT), options=OPTIONS)
        back_up(Repository.open(damaged, PASSWORD), Disk(CONTENT), options=OPTIONS)
        assert check(damaged, before) >= 2
    assert "failed" in outcomes


def test_a_snapshot_is_whole_whenever_the_power_goes(tmp_path: Path) -> None:
    template = tmp_path / "template"
    before = back_up(new_repository(LocalStore(template)), Disk(random_disk(1))).snapshot
    for folder in (template / "data").iterdir():
        if not any(folder.iterdir()):
            folder.rmdir()  # so that the backup must make it
    present = set()
    survived = False
    for number in count(1, 5):
        root = shutil.copytree(template, tmp_path / str(number))
        system = VolatileSystem(root)
        dying = Faults(system, number, PowerCutError(), after=number % 2 == 0, for_good=True)
        with suppress(PowerCutError), powered(root, dying) as writer:
            save_point(writer, save_disk(writer, Disk(CONTENT))[1])
            survived = True
        for seed in range(2):
            place = tmp_path / f"{number}-{seed}"
            system.power_cut(seed, place)
            found = check(LocalStore(place), before)
            assert found == 2 or not survived
            present.add(found)
            shutil.rmtree(place)
        shutil.rmtree(root)
        if survived:
            break
    assert present == {1, 2}


@contextmanager
def powered(root: Path, system: Faults) -> Iterator[Writer]:
    """A writer on a machine whose power will go; what happens in it after that does not count."""
    repository = Repository.open(LocalStore(root, system), PASSWORD)
    with held(repository.files, pace=Pace(settle=0)) as lock:
        repository.load_index()
        with Writer(repository, lock, OPTIONS) as writer:
            yield writer


@pytest.mark.root
@pytest.mark.parametrize("size_kib", [*range(100, 320, 20), 400, 4000])
def test_a_disk_that_really_is_full_loses_nothing(tmp_path: Path, size_kib: int) -> None:
    content = random_bytes(60 * BLOCK, 5)
    with small_disk(tmp_path / "small", size_kib) as place:
        repository = new_repository(LocalStore(place / "repository"))
        before = back_up(repository, Disk(random_bytes(4 * BLOCK, 4))).snapshot
        full = size_kib < 360  # the disk itself takes 240
        try:
            back_up(repository, Disk(content), options=OPTIONS)
            assert not full
        except StoreError as error:
            assert full
            assert "full" in str(error)
            assert error.hint
        anew = Repository.open(LocalStore(place / "repository"), PASSWORD)
        assert restored(anew, before) == random_bytes(4 * BLOCK, 4)
        assert len(list(anew.snapshots())) == (1 if full else 2)
        subprocess.run(["mount", "-o", "remount,size=8m", str(place)], check=True)
        for again in (repository, anew):
            saved = back_up(again, Disk(content), options=OPTIONS)
            assert restored(Repository.open(anew.store, PASSWORD), saved.snapshot) == content


@contextmanager
def small_disk(place: Path, size_kib: int) -> Iterator[Path]:
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "donjon-test", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_an_aborted_run_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    with suppress(StoreError), alone(new_repository()) as writer:
        save_disk(writer, Disk(CONTENT))
        raise StoreError("cannot")
    assert threading.active_count() == before
