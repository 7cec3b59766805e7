# SPDX-License-Identifier: Apache-2.0
"""Every step of a backup fails once: the guest goes on, nothing is left behind, and the next backup is right."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest

from donjon.backup.methods.offline import WhenRunning
from donjon.errors import DonjonError, HostError, IncompleteError, StoreError
from donjon.model.vm import Power
from donjon.repository.repository import Repository
from donjon.repository.store import FileName
from donjon.repository.stores.memory import MemoryStore
from donjon.testing.faults import Faults
from donjon.trace import listening
from tests.unit.backup.site import Site, bitmaps, disk, machine, new_qcow2, new_raw, qemu_io, restored, truth
from tests.unit.repository.disks import PASSWORD

POINTS = [
    "standstill.before-shutdown",
    "standstill.shut-down",
    "scratch.made",
    "scratch.opened",
    "offline.bitmap-owed",
    "offline.bitmap-begun",
    "writer.pack-saved",
    "writer.index-saved",
    "writer.before-snapshot",
    "writer.snapshot-saved",
    "backup.committed",
    "backup.reread",
    "offline.bitmap-stale",
]


class Made(NamedTuple):
    """What every guest begins with; `then` is what its disk held at the restore point."""

    image: bytes
    data: bytes
    files: dict[FileName, bytes]
    then: bytes


@cache
def make() -> Made:
    with TemporaryDirectory() as folder:
        image, data = new_qcow2(Path(folder)), new_raw(Path(folder))
        site = Site(machine(disk("vda", image), disk("vdb", data), power=Power.RUNNING, definition="<domain/>"))
        site.back_up(when_running=WhenRunning.SHUT_DOWN)
        then = truth(image)
        qemu_io(image, "write -P 99 1M 64k")
        assert isinstance(site.repository.store, MemoryStore)
        return Made(image.read_bytes(), data.read_bytes(), dict(site.repository.store.files), then)


class Guest(Site):
    """A running guest with one restore point, changed since."""

    def __init__(self, folder: Path) -> None:
        made = make()
        self.image, data = folder / "disk.qcow2", folder / "data.raw"
        self.image.write_bytes(made.image)
        data.write_bytes(made.data)
        super().__init__(
            machine(disk("vda", self.image), disk("vdb", data), power=Power.RUNNING, definition="<domain/>")
        )
        store = MemoryStore()
        store.files = dict(made.files)
        self.repository = Repository.open(store, PASSWORD)
        self.first, self.then = self.points()[0], made.then

    def back_up_through(self, store: object) -> Repository:
        repository = Repository.open(store, PASSWORD)  # type: ignore[arg-type]
        self.back_up(repository=repository, when_running=WhenRunning.SHUT_DOWN)
        return repository

    def check(self, points: int) -> None:
        """After a failure: all as it was, but for `points` restore points; and after the next backup, too."""
        assert self.power() is Power.RUNNING
        assert self.ledger.debts() == []
        assert len(self.points()) == points
        assert restored(self.repository, self.first) == self.then
        assert len(bitmaps(self.image)) <= 2
        assert points > 1 or bitmaps(self.image) == {self.checkpoint()}
        self.repository = Repository.open(self.repository.store, PASSWORD)
        self.back_up(when_running=WhenRunning.SHUT_DOWN)
        assert self.restored() == truth(self.image)
        assert restored(self.repository, self.first) == self.then
        assert bitmaps(self.image) == {self.checkpoint()}


def count_store_calls() -> int:
    with TemporaryDirectory() as folder:
        guest = Guest(Path(folder))
        counting = Faults(guest.repository.store, 0, StoreError("never"))
        guest.back_up_through(counting)
        return counting.calls


@pytest.mark.parametrize("after", [False, True], ids=["refused", "reply lost"])
def test_every_call_of_the_store_can_fail(after: bool) -> None:
    calls = count_store_calls()
    assert calls > 20

    def fail_once(fail_at: int) -> bool:
        with TemporaryDirectory() as folder:
            guest = Guest(Path(folder))
            points = 1
            failed = False
            try:
                guest.back_up_through(Faults(guest.repository.store, fail_at, StoreError("cannot"), after=after))
                points = 2
            except IncompleteError:
                points = 2
                failed = True
            except DonjonError:
                failed = True
                points = len(guest.points())  # a lost reply to the snapshot itself: it is there, and nobody knows
            guest.check(points)
            return failed

    with ThreadPoolExecutor(6) as threads:
        # Every other one, and all of the end, where the commit is; test_live_faults.py has them all, both ways.
        numbers = {*range(1 + after, calls + 1, 2), *range(max(1, calls - 6), calls + 1)}
        assert sum(threads.map(fail_once, sorted(numbers))) > 5


@pytest.mark.parametrize("error", [HostError("cannot"), KeyboardInterrupt()], ids=["error", "Ctrl-C"])
@pytest.mark.parametrize("point", POINTS)
def test_a_failure_at_any_point_of_the_way(tmp_path: Path, point: str, error: BaseException) -> None:
    guest = Guest(tmp_path)

    def fail(at: str) -> None:
        if at == point:
            raise error

    with listening(fail), pytest.raises((HostError, IncompleteError, KeyboardInterrupt)):
        guest.back_up(when_running=WhenRunning.SHUT_DOWN)
    guest.repository = Repository.open(guest.repository.store, PASSWORD)
    guest.check(len(guest.points()))


def test_the_points_are_those_that_are_reached(tmp_path: Path) -> None:
    guest = Guest(tmp_path)
    reached: set[str] = set()
    with listening(reached.add):
        guest.back_up(when_running=WhenRunning.SHUT_DOWN)
    assert set(POINTS) == reached - {"lock.written"}
