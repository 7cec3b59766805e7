# SPDX-License-Identifier: Apache-2.0
"""kill -9 at every point of a backup or restore: the next process puts all right, and nothing was lost."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from donjon.model.vm import Power
from donjon.repository.repository import Repository
from donjon.repository.stores.local import LocalStore
from donjon.restore.in_place import SWAP_DEBT
from donjon.restore_points import load_manifest, survey_restore_points
from tests.sweep.crashing_host import Folder, LastingHypervisor, run
from tests.unit.backup.site import UUID, bitmaps, new_qcow2, new_raw, qemu_io, restored, truth
from tests.unit.repository.disks import CHEAP, PASSWORD
from tests.unit.restore.test_whole_vm import DEFINITION

Disks = tuple[bytes, bytes]

FORKS = multiprocessing.get_context("forkserver")
"""Forks of a process that has all loaded: to start Python for each would take longer than what it does."""
FORKS.set_forkserver_preload(["tests.sweep.crashing_host"])


class World(NamedTuple):
    """A folder that can be put back to what it was: a running VM with one restore point, changed since."""

    folder: Path
    master: Path
    then: Disks
    now: Disks

    def reset(self) -> None:
        shutil.rmtree(self.folder)
        shutil.copytree(self.master, self.folder)

    def run(self, action: str, number: int) -> list[str]:
        """The points that were reached until the process was killed at the last of them, or done."""
        reached = self.master.with_name("reached")
        reached.write_text("")
        process = FORKS.Process(target=run, args=(self.folder, action, number, reached))
        process.start()
        process.join(60)
        points = reached.read_text().split()
        assert process.exitcode in (0, -signal.SIGKILL), points
        assert (process.exitcode == 0) == (len(points) < number), points
        return points

    def settled(self) -> Folder:
        folder = Folder(self.folder)
        assert folder.ledger.settle() == []
        assert folder.ledger.debts() == []
        return folder

    def disks(self) -> Disks:
        return truth(self.folder / "disk.qcow2"), (self.folder / "data.raw").read_bytes()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world") / "host"
    (folder / "swtpm" / UUID / "tpm2").mkdir(parents=True)
    (folder / "swtpm" / UUID / "tpm2" / "state").write_bytes(b"tpm")
    (folder / "vars.fd").write_bytes(b"variables")
    (folder / "vmlinuz").write_bytes(b"kernel")
    image, raw = new_qcow2(folder), new_raw(folder)
    host = LastingHypervisor(folder / "host.json")
    host.define(DEFINITION.format(name="web01", uuid=UUID, folder=folder))
    host.start(UUID)
    Repository.create(LocalStore(folder / "repository"), PASSWORD, scrypt=CHEAP)
    Folder(folder).back_up()
    world = World(folder, folder.with_name("master"), (b"", b""), (b"", b""))
    then = world.disks()
    qemu_io(image, "write -P 99 1M 64k")
    with raw.open("r+b") as file:
        file.write(b"changed")
    now = world.disks()
    (folder / "disk.qcow2.truth").unlink()
    shutil.copytree(folder, world.master)
    return world._replace(then=then, now=now)


def sweep(world: World, action: str) -> list[str]:
    """How often the action can be killed: once at each of these points."""
    world.reset()
    return world.run(action, 10_000)


def first_and_last(points: list[str]) -> Iterator[tuple[int, str]]:
    """Where to kill: of the steps that come again and again, the first and the last; counted from 1."""
    for number, point in enumerate(points, start=1):
        if point not in points[: number - 1] or point not in points[number:]:
            yield number, point


def test_backup(world: World) -> None:
    points = sweep(world, "back_up")
    assert {"standstill.shut-down", "offline.bitmap-begun", "backup.committed", "offline.bitmap-stale"} <= set(points)
    committed = points.index("store.published", points.index("writer.before-snapshot")) + 1
    for number, point in first_and_last(points):
        world.reset()
        world.run("back_up", number)
        folder = world.settled()
        assert folder.host.power(UUID) is Power.RUNNING, point
        first, *more = survey_restore_points(folder.repository).points
        assert (restored(folder.repository, first, "vda"), restored(folder.repository, first, "vdb")) == world.then
        assert bool(more) == (number >= committed), (point, number)
        folder.back_up()
        last = survey_restore_points(folder.repository).points[-1]
        assert (restored(folder.repository, last, "vda"), restored(folder.repository, last, "vdb")) == world.now, point
        disk = load_manifest(folder.repository, last).disk("vda")
        assert disk
        assert bitmaps(world.folder / "disk.qcow2") == {disk.checkpoint}, point
        assert folder.host.power(UUID) is Power.RUNNING


def test_restore(world: World) -> None:
    points = sweep(world, "restore")
    assert (world.folder / "new" / "web02.xml").exists()
    assert {"restore.begun", "restore.written", "restore.before-define"} <= set(points)
    for number, point in first_and_last(points):
        world.reset()
        world.run("restore", number)
        folder = world.settled()
        assert not (world.folder / "new").exists(), point
        assert [vm.name for vm in folder.host.list_vms()] == ["web01"]
        assert world.disks() == world.now


def test_roll_back(world: World) -> None:
    points = sweep(world, "roll_back")
    assert points.count("roll-back.half-swapped") == 2
    for number, point in first_and_last(points):
        world.reset()
        world.run("roll_back", number)
        world.settled()
        assert world.disks() == world.now, point
        left = [path.name for path in world.folder.iterdir() if ".before-" in path.name or ".restored-" in path.name]
        assert left == [], point


def kill_at(world: World, action: str, point: str, time: int = 1) -> None:
    """The action, until it reaches the point for the n-th time."""
    numbers = [number for number, reached in enumerate(sweep(world, action), start=1) if reached == point]
    world.reset()
    world.run(action, numbers[time - 1])


def test_what_the_operator_puts_in_the_place_of_a_killed_restore_stays(world: World) -> None:
    kill_at(world, "restore", "restore.begun", time=2)
    image = world.folder / "new" / "web02-vda.qcow2"
    assert image.exists()
    image.unlink()
    image.write_bytes(b"precious")
    world.settled()
    assert image.read_bytes() == b"precious"
    assert list(image.parent.iterdir()) == [image]


def test_a_disk_that_is_used_after_a_killed_roll_back_stays(world: World) -> None:
    kill_at(world, "roll_back", "roll-back.swapped")
    assert world.disks() == world.then
    qemu_io(world.folder / "disk.qcow2", "write -P 77 2M 64k")
    used = world.disks()
    folder = Folder(world.folder)
    (left,) = folder.ledger.settle()
    assert left.kind == SWAP_DEBT
    assert world.disks() == used
    for kept in world.folder.glob("*.before-*"):
        kept.unlink()
    world.settled()
    assert world.disks() == used
