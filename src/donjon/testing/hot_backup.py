# SPDX-License-Identifier: Apache-2.0
"""Backup jobs and checkpoints in memory, read through real NBD."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from donjon.errors import HostError, RefusedError
from donjon.hypervisors.hot_backup import ActiveJob, Checkpoint, CheckpointError, DiskJob, Owner
from donjon.model.vm import Power, Vm
from donjon.nbd.server import NbdServer
from donjon.testing.disks import FakeDisk

_BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class _Job:
    socket: Path
    held: ExitStack = field(default_factory=ExitStack)


class FakeBackups:
    """What running guests' disks hold, and the jobs that hold moments of them.

    Attributes:
        foreign_jobs: of others, by UUID.
        errors_of_disks: what stopped a guest, by UUID and target.
    """

    def __init__(self) -> None:
        self.foreign_jobs: dict[str, ActiveJob] = {}
        self.errors_of_disks: dict[str, dict[str, str]] = {}
        self._disks: dict[tuple[str, str], FakeDisk] = {}
        self._jobs: dict[str, _Job] = {}
        self._checkpoints: dict[str, dict[str, Checkpoint]] = {}
        self._births = 0

    def find_vm(self, name_or_uuid: str) -> Vm:
        """Of the hypervisor that this is part of."""
        raise NotImplementedError

    def change(self, vm: Vm) -> None:
        """Of the hypervisor that this is part of."""
        raise NotImplementedError

    def disk(self, uuid: str, target: str) -> FakeDisk:
        """A disk's bytes: as given by `fill`, else those of its image, if that is raw."""
        if (uuid, target) not in self._disks:
            disk = next((disk for disk in self.find_vm(uuid).disks if disk.target == target), None)
            if disk is None or disk.source is None or not Path(disk.source).is_file():
                raise HostError(f"cannot find the disk {target} of {uuid}")
            self._disks[uuid, target] = FakeDisk(Path(disk.source).read_bytes())
        return self._disks[uuid, target]

    def fill(self, uuid: str, target: str, content: bytes) -> None:
        """Somebody replaces a disk; the new one has no bitmaps."""
        self._disks[uuid, target] = FakeDisk(content)

    def write(self, uuid: str, target: str, offset: int, data: bytes) -> None:
        """The guest writes to its disk."""
        self.disk(uuid, target).write(offset, data)

    def zero(self, uuid: str, target: str, offset: int, length: int) -> None:
        """The guest writes zeros to its disk, or trims it."""
        self.disk(uuid, target).write(offset, bytes(length))

    def kill(self, uuid: str) -> None:
        """The guest's process is killed: jobs are gone, bitmaps broken."""
        self.power_off(uuid)
        for (owner, _), disk in self._disks.items():
            if owner == uuid:
                disk.break_bitmaps()

    def power_off(self, uuid: str) -> None:
        """Of the hypervisor that this is part of."""
        raise NotImplementedError

    def forget_checkpoints(self, uuid: str) -> None:
        """As after a migration: bitmaps travel, what libvirt knew of them does not."""
        self._checkpoints.pop(uuid, None)

    def qemu_owner(self, uuid: str) -> Owner:
        """Whoever runs the test."""
        self.find_vm(uuid)
        return Owner(os.getuid(), os.getgid())

    def active_job(self, uuid: str) -> ActiveJob | None:
        """Ours or another's."""
        self.find_vm(uuid)
        job = self._jobs.get(uuid)
        return ActiveJob("backup", str(job.socket)) if job else self.foreign_jobs.get(uuid)

    def begin_backup(self, uuid: str, disks: Sequence[DiskJob], socket: Path, checkpoint: str | None) -> None:
        """At once; nothing happens if anything is wrong."""
        vm = self.find_vm(uuid)
        if (active := self.active_job(uuid)) is not None:
            raise RefusedError(f"cannot back up {vm.name}: another job is active: {active.what}")
        if vm.power is Power.OFF:
            raise HostError(f"cannot back up {vm.name}: it is off")
        tracked = [disk.target for disk in disks if disk.track] if checkpoint else []
        self._check(vm, disks, tracked, checkpoint)
        job = _Job(socket)
        with job.held as held:
            for disk in disks:
                disk.scratch.touch(exist_ok=False)
                held.callback(disk.scratch.unlink, missing_ok=True)
            moments = {
                disk.target: self.disk(uuid, disk.target).moment(
                    disk.target, disk.since, checkpoint if disk.track else None
                )
                for disk in disks
            }
            held.enter_context(NbdServer(moments).serving_unix(socket))
            job.held = held.pop_all()
        self._jobs[uuid] = job
        if checkpoint and tracked:
            self._remember(uuid, checkpoint, tracked)

    def end_backup(self, uuid: str, socket: Path, timeout_s: float) -> None:
        """At once, if there is any time."""
        if timeout_s < 0:
            raise ValueError("there is no negative time")
        job = self._jobs.get(uuid)
        if job is not None and job.socket == socket:
            self.end_jobs(uuid)

    def checkpoints(self, uuid: str) -> list[Checkpoint]:
        """The oldest first."""
        self.find_vm(uuid)
        return sorted(self._checkpoints.get(uuid, {}).values(), key=lambda known: known.created_at)

    def adopt_checkpoint(self, uuid: str, name: str, targets: Collection[str]) -> None:
        """If its bitmaps are sound."""
        vm = self.find_vm(uuid)
        if vm.power is Power.OFF:
            raise HostError(f"cannot adopt a checkpoint of {vm.name}: it is off")
        for target in targets:
            if not self.disk(uuid, target).has_sound(name):
                raise CheckpointError(f"cannot adopt a checkpoint of {vm.name}: missing or broken bitmap on {target}")
        self._remember(uuid, name, targets)

    def delete_checkpoint(self, uuid: str, name: str) -> None:
        """With its bitmaps if the guest runs."""
        known = self._checkpoints.get(uuid, {}).pop(name, None)
        if known is not None and self.find_vm(uuid).power is not Power.OFF:
            for target in known.targets:
                self.disk(uuid, target).drop(name)

    def disk_errors(self, uuid: str) -> dict[str, str]:
        """As a test says."""
        return dict(self.errors_of_disks.get(self.find_vm(uuid).uuid, {}))

    def _check(self, vm: Vm, disks: Sequence[DiskJob], tracked: Collection[str], checkpoint: str | None) -> None:
        """Raises what the hypervisor would say."""
        known = self._checkpoints.get(vm.uuid, {})
        formats = {disk.target: disk.image_format for disk in vm.disks}
        for job in disks:
            disk = self.disk(vm.uuid, job.target)
            if job.since is not None and (job.since not in known or not disk.has_sound(job.since)):
                raise CheckpointError(f"cannot back up {vm.name}: missing or broken {job.since} on {job.target}")
            if job.target in tracked and formats.get(job.target) == "raw":
                raise HostError(f"cannot back up {vm.name}: checkpoint unsupported for the raw disk {job.target}")
            if job.target in tracked and (checkpoint in known or checkpoint in disk.bitmaps):
                raise HostError(f"cannot back up {vm.name}: the checkpoint {checkpoint} exists")
            if job.scratch.exists():
                raise HostError(f"cannot back up {vm.name}: {job.scratch} exists")

    def _remember(self, uuid: str, name: str, targets: Collection[str]) -> None:
        self._births += 1
        known = self._checkpoints.setdefault(uuid, {})
        born = known[name].created_at if name in known else _BEGINNING + timedelta(seconds=self._births)
        known[name] = Checkpoint(name, frozenset(targets), born)

    def end_jobs(self, uuid: str) -> None:
        """Ours of that guest, whatever it was read for."""
        job = self._jobs.pop(uuid, None)
        if job is not None:
            job.held.close()
