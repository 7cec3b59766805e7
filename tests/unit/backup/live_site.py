# SPDX-License-Identifier: Apache-2.0
"""A host whose guests run, with their disks in memory: what the suites of live backup have in common.

Beside every disk that can have bitmaps lies an empty qcow2 image of its size, for donjon to look at.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from donjon.backup.backup import BackupReport, back_up, back_up_together
from donjon.backup.method import Method
from donjon.backup.methods.live import Live, LiveOptions
from donjon.errors import HostError, StoreError
from donjon.model.progress import NoProgress, Progress
from donjon.model.restore_point import DiskPoint, Manifest
from donjon.model.vm import Disk, Power, Vm
from donjon.repository.repository import Repository
from donjon.repository.store import Store
from donjon.repository.stores.memory import MemoryStore
from donjon.restore_points import load_manifest, survey_restore_points
from donjon.state.ledger import Ledger
from donjon.state.process import NOBODY
from donjon.testing.agent import FakeWatchdog
from donjon.testing.hypervisor import FakeHypervisor
from donjon.trace import listening
from donjon.wiring import undoers
from tests.unit.backup.site import NEVER, QUICK, restored
from tests.unit.repository.disks import CHEAP, PASSWORD

KIB = 1 << 10
MIB = 1 << 20
BLOCK = 512 * KIB
WEB = "6c0f8b1e-3a54-4d7c-9d8a-0123456789ab"


class DiedError(BaseException):
    """The process is gone: from here on it undoes nothing."""


class LiveSite:
    """One host and one repository. `hypervisor` may be replaced by a test, which is then asked by undoers, too."""

    def __init__(self, folder: Path, scratch: Path, *vms: Vm) -> None:
        self.folder, self.scratch = folder, scratch
        self.host = FakeHypervisor(vms)
        self.hypervisor: Any = self.host
        self.watchdog = FakeWatchdog()
        self.dead = False
        pay = undoers(lambda _: nullcontext(self.hypervisor))
        self.ledger = FallibleLedger(":memory:", {kind: self._unless_dead(undo) for kind, undo in pay.items()})
        self.store: Store = MemoryStore()
        Repository.create(self.store, PASSWORD, scrypt=CHEAP)
        self.repository = self.open()

    def open(self, store: Store | None = None) -> Repository:
        """The repository as another process sees it."""
        return Repository.open(store or self.store, PASSWORD)

    def method(self, **options: Any) -> Live:
        wanted = LiveOptions(**{"scratch_directory": self.scratch, "least_free": 0, **options})
        hypervisor: Any = Mortal(self.hypervisor, self, HostError("the process is dead"))
        return Live(hypervisor, self.ledger, self.repository.config.id, wanted, lambda: nullcontext(self.watchdog))

    def back_up(self, uuid: str = WEB, progress: Progress | None = None, **options: Any) -> BackupReport:
        """One VM; what is known of its disks goes unchecked, so that it must be right."""
        return self.back_up_by(self.method(**options), uuid, progress)

    def back_up_by(self, method: Method, uuid: str = WEB, progress: Progress | None = None) -> BackupReport:
        store: Any = Mortal(self.repository.store, self, StoreError("the process is dead"))
        repository = Repository(store, self.repository.key, self.repository.config)
        return back_up(self.host.find_vm(uuid), method, repository, QUICK, progress or NoProgress(), NEVER)

    def back_up_group(self, *uuids: str, progress: Progress | None = None, **options: Any) -> list[BackupReport]:
        vms = [self.host.find_vm(uuid) for uuid in uuids]
        return back_up_together(vms, self.method(**options), self.repository, QUICK, progress or NoProgress(), NEVER)

    def content(self, target: str = "vda", uuid: str = WEB) -> bytes:
        """What the disk holds now."""
        return bytes(self.host.disk(uuid, target).content)

    def restored(self, target: str = "vda", uuid: str = WEB) -> bytes:
        """What it holds in the last restore point."""
        repository = self.open()
        point = [point for point in survey_restore_points(repository).points if point.vm_uuid == uuid][-1]
        return restored(repository, point, target)

    def manifest(self, uuid: str = WEB) -> Manifest:
        repository = self.open()
        return load_manifest(
            repository, [it for it in survey_restore_points(repository).points if it.vm_uuid == uuid][-1]
        )

    def point(self, target: str = "vda", uuid: str = WEB) -> DiskPoint:
        found = self.manifest(uuid).disk(target)
        assert found
        return found

    def count_points(self) -> int:
        return len(survey_restore_points(self.open()).points)

    def checkpoints(self, uuid: str = WEB) -> set[str]:
        return {checkpoint.name for checkpoint in self.host.checkpoints(uuid)}

    def bitmaps(self, target: str = "vda", uuid: str = WEB) -> set[str]:
        return set(self.host.disk(uuid, target).bitmaps)

    def resize(self, size: int, target: str = "vda", uuid: str = WEB) -> None:
        """As the administrator does while the guest runs."""
        self.host.disk(uuid, target).resize(size)
        (disk,) = (disk for disk in self.host.find_vm(uuid).disks if disk.target == target)
        assert disk.source
        Path(disk.source).write_bytes(empty_qcow2(size))

    def check_nothing_left(self) -> None:
        """No debt, job, scratch file, frozen guest, and nobody who watches."""
        assert self.ledger.debts() == []
        assert list(self.scratch.iterdir()) == []
        assert (self.watchdog.armed_for, self.watchdog.scratch) == ({}, {})
        for vm in self.host.list_vms():
            assert self.host.active_job(vm.uuid) is None
            assert not self.host.agent(vm.uuid).frozen

    @contextmanager
    def dying_at(self, point: str, time: int = 1) -> Iterator[None]:
        """The process dies when it reaches a point for the n-th time; a new one settles what it left."""
        left = time

        def die(reached: str) -> None:
            nonlocal left
            left -= reached == point
            if reached == point and not left:
                self.dead = True
                raise DiedError(point)

        try:
            with listening(die):
                yield
        finally:
            self.revive()

    def revive(self) -> None:
        """Another process settles what this one owes, which has ended."""
        self.dead = False
        for debt in self.ledger.debts():
            self.ledger._hand_over(debt, NOBODY)
        assert self.ledger.settle() == []

    def _unless_dead(self, undo: Callable[..., None]) -> Callable[..., None]:
        def pay(**args: Any) -> None:
            if self.dead:
                raise HostError("the process is dead")
            undo(**args)

        return pay


class FallibleLedger(Ledger):
    """Of its statements, counted in `calls`, the one numbered `fail_at` fails: before it takes effect, or `after`."""

    calls = 0
    fail_at = 0
    after = False

    def _run(self, statement: str, *values: Any) -> Any:
        self.calls += 1
        fails = self.calls == self.fail_at
        if fails and not self.after:
            raise HostError("cannot use the ledger: database or disk is full")
        done = super()._run(statement, *values)
        if fails:
            raise HostError("cannot use the ledger: disk I/O error")
        return done


class Mortal:
    """Passes calls on as long as the process lives."""

    def __init__(self, target: object, site: LiveSite, error: Exception) -> None:
        self._target, self._site, self._error = target, site, error

    def __getattr__(self, name: str) -> Any:
        if self._site.dead:
            raise self._error
        return getattr(self._target, name)


@cache
def empty_qcow2(size: int) -> bytes:
    with NamedTemporaryFile() as file:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", file.name, str(size)], check=True)
        return Path(file.name).read_bytes()


def running(name: str = "web01", uuid: str = WEB, *disks: Disk) -> Vm:
    definition = f"<domain id='7'><name>{name}</name></domain>"
    return Vm(uuid, name, "fakehost", Power.RUNNING, disks, definition="<domain/>", live_definition=definition)


def qcow2(folder: Path, target: str, content: bytes) -> Disk:
    path = folder / f"{target}.qcow2"
    path.write_bytes(empty_qcow2(len(content)))
    return Disk(target, str(path), "qcow2")


def raw(folder: Path, target: str, content: bytes) -> Disk:
    path = folder / f"{target}.raw"
    path.write_bytes(content)
    return Disk(target, str(path), "raw")


def plug(site: LiveSite, disk: Disk, content: bytes, uuid: str = WEB) -> None:
    """Give a guest another disk."""
    vm = site.host.find_vm(uuid)
    site.host.change(replace(vm, disks=(*vm.disks, disk)))
    site.host.fill(uuid, disk.target, content)


def new_site(folder: Path, scratch: Path, *contents: bytes) -> LiveSite:
    """One guest, with qcow2 disks vda, vdb, ... that hold this."""
    disks = [qcow2(folder, f"vd{'abcdef'[number]}", content) for number, content in enumerate(contents)]
    site = LiveSite(folder, scratch, running("web01", WEB, *disks))
    for disk, content in zip(disks, contents, strict=True):
        site.host.fill(WEB, disk.target, content)
    return site
