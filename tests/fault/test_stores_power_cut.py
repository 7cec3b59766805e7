# SPDX-License-Identifier: Apache-2.0
"""Whenever the power goes, a file of a local store is whole or absent; once saved, it is there to stay."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from donjon.errors import FileExistsInStoreError, FileMissingError
from donjon.repository.store import FileName, FileType
from donjon.repository.stores.local import LocalStore
from donjon.testing.faults import Faults
from donjon.testing.volatile import PowerCutError, VolatileSystem

CONTENT = [b"first", b"second" * 700]
PACK = FileName(FileType.PACK, hashlib.sha256(b"".join(CONTENT)).hexdigest())
FILES = [PACK, FileName(FileType.INDEX, PACK.name), FileName(FileType.CONFIG)]

MEMORY = Path("/dev/shm")
Disk = Callable[[Path], VolatileSystem]


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a place: the disks here are small, many, and never really synced."""
    if not MEMORY.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as place:
        yield Path(place)


class NoHardLinks(VolatileSystem):
    """A disk that knows no hard links, as FAT."""

    def link(self, path: Path, new: Path, /) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


class ForgetsBytes(VolatileSystem):
    """What a store that does not sync its files would do to a disk."""

    def fsync(self, descriptor: int, /) -> None:
        if os.path.isdir(descriptor):
            super().fsync(descriptor)


class ForgetsNames(VolatileSystem):
    """What a store that does not sync its directories would do to a disk."""

    def fsync(self, descriptor: int, /) -> None:
        if not os.path.isdir(descriptor):
            super().fsync(descriptor)


class Disks:
    """Makes disks with an empty repository, whose directory for the pack is missing, and cuts their power."""

    def __init__(self, place: Path, make: Disk) -> None:
        self._place = place
        self._make = make
        self._numbers = count()

    def new_place(self) -> Path:
        return self._place / str(next(self._numbers))

    def new_disk(self) -> tuple[Path, VolatileSystem]:
        root = self.new_place()
        for kind in FILES:
            (root / kind.type.value if kind.name else root).mkdir(parents=True, exist_ok=True)
        return root, self._make(root)

    def after_power_cut(self, system: VolatileSystem, file: FileName) -> list[bool]:
        """Whether the file is there, in each of many states that the disk may be in; it must then be whole."""
        return [self._after_power_cut(system, seed, file) for seed in range(6)]

    def _after_power_cut(self, system: VolatileSystem, seed: int, file: FileName) -> bool:
        place = self.new_place()
        system.power_cut(seed, place)
        store = LocalStore(place)
        listed = [info.name for info in store.list(file.type)]
        try:
            assert store.load(file) == b"".join(CONTENT)
        except FileMissingError:
            assert listed == []
            return False
        assert listed == ([file.name] if file.name else [])
        return True


def last_call_is(number: int, *, answered: bool, system: VolatileSystem) -> Faults:
    """The system of a machine that makes this call, or does not make it, and then no other."""
    return Faults(system, number, PowerCutError(), after=answered, for_good=True)


def check_saving(disks: Disks, file: FileName) -> int:
    """Cut the power at every call of a save, and after it; returns how many calls it makes."""
    for number in range(1, 100):
        for answered in (False, True):
            root, system = disks.new_disk()
            dying = last_call_is(number, answered=answered, system=system)
            with suppress(PowerCutError):
                LocalStore(root, dying).save(file, CONTENT)
                assert all(disks.after_power_cut(system, file))
                return number - 1
            disks.after_power_cut(system, file)
    raise AssertionError("a save makes no end of calls")


@pytest.mark.parametrize("make", [VolatileSystem, NoHardLinks])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.type.value)
def test_a_file_is_whole_or_absent_whenever_the_power_goes(tmp_path: Path, make: Disk, file: FileName) -> None:
    assert check_saving(Disks(tmp_path, make), file) >= 10


@pytest.mark.parametrize("make", [ForgetsBytes, ForgetsNames])
def test_a_store_that_forgets_to_sync_is_found_out(tmp_path: Path, make: Disk) -> None:
    with pytest.raises(AssertionError):
        check_saving(Disks(tmp_path, make), FILES[0])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.type.value)
def test_what_another_process_died_saving_survives_once_it_is_saved(tmp_path: Path, file: FileName) -> None:
    disks = Disks(tmp_path, VolatileSystem)
    existed = set()
    for number in range(1, check_saving(disks, file) + 1):
        root, system = disks.new_disk()
        with pytest.raises(PowerCutError):  # only the process dies here: the disk goes on
            LocalStore(root, last_call_is(number, answered=True, system=system)).save(file, CONTENT)
        try:
            LocalStore(root, system).save(file, CONTENT)
            existed.add(False)
        except FileExistsInStoreError:
            existed.add(True)
        assert all(disks.after_power_cut(system, file))
    assert existed == {False, True}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.type.value)
def test_a_deleted_file_does_not_come_back(tmp_path: Path, file: FileName) -> None:
    disks = Disks(tmp_path, VolatileSystem)
    for number in (1, 2, 3, 4, 5):
        root, system = disks.new_disk()
        LocalStore(root, system).save(file, CONTENT)
        with suppress(PowerCutError):
            LocalStore(root, last_call_is(number, answered=True, system=system)).delete(file)
        found = disks.after_power_cut(system, file)
        assert number > 1 or {*found} == {False, True}
        LocalStore(root, system).delete(file)
        assert not any(disks.after_power_cut(system, file))


def test_a_repository_made_in_new_directories_survives(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    system = VolatileSystem(disk)
    store = LocalStore(disk / "backups" / "ours", system)
    store.create()
    for file in FILES:
        store.save(file, CONTENT)
    for seed in range(10):
        system.power_cut(seed, tmp_path / str(seed))
        kept = LocalStore(tmp_path / str(seed) / "backups" / "ours")
        assert [kept.load(file) for file in FILES] == [b"".join(CONTENT)] * 3
        assert len(list((Path(kept.location) / "data").iterdir())) == 256


def test_the_disk_forgets_what_was_not_synced(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    system = VolatileSystem(tmp_path / "disk")
    path = tmp_path / "disk" / "file"
    descriptor = system.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    system.writev(descriptor, [memoryview(b"synced")])
    system.fsync(descriptor)
    system.writev(descriptor, [memoryview(b"later")])
    system.close(descriptor)
    left = set()
    for seed in range(200):
        system.power_cut(seed, tmp_path / str(seed))
        found = tmp_path / str(seed) / "file"
        left.add(found.read_bytes() if found.exists() else None)
    assert {None, b"synced", b"syncedlater", b"synced" + bytes(5)} < left
    assert all(state is None or (state.startswith(b"synced") and len(state) <= 11) for state in left)
    assert path.read_bytes() == b"syncedlater"
