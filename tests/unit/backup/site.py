# SPDX-License-Identifier: Apache-2.0
"""A host with one VM and a repository: what the suites of backup and restore have in common."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Collection
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from donjon.backup.backup import BackupReport, back_up
from donjon.backup.methods.offline import Offline, OfflineOptions
from donjon.backup.sample import Sampling
from donjon.model.progress import NoProgress, Progress
from donjon.model.restore_point import RestorePoint
from donjon.model.vm import Disk, Power, Vm
from donjon.repository.format.blob import BlobType
from donjon.repository.lock import Pace
from donjon.repository.repository import Repository
from donjon.repository.store import FileName, FileType, Store
from donjon.repository.stores.memory import MemoryStore
from donjon.repository.writer import WriteOptions
from donjon.restore.image import restore_image
from donjon.restore_points import load_disk, load_manifest, survey_restore_points
from donjon.state.ledger import Ledger
from donjon.testing.hypervisor import FakeHypervisor
from donjon.wiring import undoers
from tests.unit.repository.disks import CHEAP, PASSWORD, Target

KIB = 1 << 10
MIB = 1 << 20
BLOCK = 512 * KIB
UUID = "6c0f8b1e-3a54-4d7c-9d8a-0123456789ab"
QUICK = WriteOptions(workers=2, pace=Pace(settle=0))
NEVER = Sampling(days=0)


class Site:
    """One host. `hypervisor` may be wrapped, or replaced, by a test; the ledger always pays to `host`."""

    def __init__(self, *vms: Vm, store: Store | None = None, ledger: Path | str = ":memory:") -> None:
        self.host = FakeHypervisor(vms)
        self.hypervisor: Any = self.host
        self.ledger = Ledger(ledger, undoers(lambda _: nullcontext(self.host)))
        self.repository = Repository.create(MemoryStore() if store is None else store, PASSWORD, scrypt=CHEAP)

    def method(self, repository: Repository | None = None, **options: Any) -> Offline:
        return Offline(
            self.hypervisor, self.ledger, (repository or self.repository).config.id, OfflineOptions(**options)
        )

    def back_up(
        self,
        *,
        repository: Repository | None = None,
        progress: Progress | None = None,
        sampling: Sampling = NEVER,
        **options: Any,
    ) -> BackupReport:
        """Back the one VM up, as it is now; what is known of its disks goes unchecked, so that it must be right."""
        (vm,) = self.host.list_vms()
        into = repository or self.repository
        return back_up(vm, self.method(into, **options), into, QUICK, progress or NoProgress(), sampling)

    def power(self) -> Power:
        (vm,) = self.host.list_vms()
        return vm.power

    def points(self) -> list[RestorePoint]:
        return list(survey_restore_points(self.repository).points)

    def restored(self, point: RestorePoint | None = None, target: str = "vda") -> bytes:
        """A disk as the repository has it; at the last restore point."""
        return restored(self.repository, point or self.points()[-1], target)

    def checkpoint(self, target: str = "vda") -> str | None:
        """The bitmap that the last restore point relies upon."""
        disk = load_manifest(self.repository, self.points()[-1]).disk(target)
        assert disk
        return disk.checkpoint


def damage(site: Site, target: str, block: int) -> None:
    """Flip a bit of a block of a disk, where the repository has it."""
    point = site.points()[-1]
    disk = load_manifest(site.repository, point).disk(target)
    assert disk
    with load_disk(site.repository, point, disk) as block_map:
        (location,) = site.repository.locations(BlobType.DATA, block_map.ids(block, block + 1))
    assert isinstance(site.repository.store, MemoryStore)
    name = FileName(FileType.PACK, location.pack.hex())
    content = bytearray(site.repository.store.files[name])
    content[location.offset + location.length // 2] ^= 1
    site.repository.store.files[name] = bytes(content)


class Calling(NoProgress):
    """Does something once, in the midst of reading."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action: Callable[[], object] | None = action

    def advance(self, done: int) -> None:
        action, self._action = self._action, None
        if action:
            action()


def restored(repository: Repository, point: RestorePoint, target: str = "vda") -> bytes:
    disk = load_manifest(repository, point).disk(target)
    assert disk
    with load_disk(repository, point, disk) as block_map:
        sink = Target(block_map.size)
        restore_image(repository, block_map, sink)
        return bytes(sink.content)


def machine(*disks: Disk, power: Power = Power.OFF, name: str = "web01", **more: Any) -> Vm:
    return Vm(UUID, name, "fakehost", power, disks, **more)


def disk(target: str, path: Path, image_format: str | None = None) -> Disk:
    return Disk(target, str(path), image_format or path.suffix[1:])


def qemu(*argv: str | Path, check: bool = True) -> str:
    done = subprocess.run([str(word) for word in argv], check=False, capture_output=True, text=True)
    assert done.returncode == 0 or not check, (argv, done.stderr, done.stdout)
    return done.stdout


def qemu_io(path: Path, *commands: str) -> None:
    words = [word for command in commands for word in ("-c", command)]
    qemu("qemu-io", "-f", path.suffix[1:], "-d", "unmap", *words, path)


def truth(path: Path) -> bytes:
    """The disk as QEMU reads it."""
    out = path.with_name(path.name + ".truth")
    qemu("qemu-img", "convert", "-f", path.suffix[1:], "-O", "raw", path, out)
    return out.read_bytes()


def new_chain(folder: Path, size: int = 4 * MIB) -> Path:
    """A qcow2 image over a backing file, with content in both."""
    base, top = folder / "base.qcow2", folder / "top.qcow2"
    qemu("qemu-img", "create", "-q", "-f", "qcow2", base, str(size))
    qemu_io(base, f"write -P 17 0 {size // 2}", f"write -P 18 {size - 65536} 64k")
    qemu("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, top)
    qemu_io(top, f"write -P 34 {MIB} {MIB}")
    return top


def new_qcow2(folder: Path, size: int = 4 * MIB) -> Path:
    path = folder / "disk.qcow2"
    qemu("qemu-img", "create", "-q", "-f", "qcow2", path, str(size))
    qemu_io(path, f"write -P 17 0 {size // 2}", f"write -P 18 {size - 65536} 64k")
    return path


def new_raw(folder: Path, size: int = 3 * MIB + 1000) -> Path:
    path = folder / "data.raw"
    path.write_bytes(bytes(MIB) + b"data" * (MIB // 4) + bytes(size - 2 * MIB - 4) + b"last")
    return path


def bitmaps(path: Path) -> set[str]:
    """Names of donjon's bitmaps in an image."""
    info = json.loads(qemu("qemu-img", "info", "-U", "--output=json", path))
    found = info.get("format-specific", {}).get("data", {}).get("bitmaps", [])
    return {bitmap["name"] for bitmap in found if bitmap["name"].startswith("donjon-")}


def without(vm: Vm, targets: Collection[str]) -> Vm:
    return replace(vm, disks=tuple(disk for disk in vm.disks if disk.target not in targets))
