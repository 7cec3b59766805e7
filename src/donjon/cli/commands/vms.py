# SPDX-License-Identifier: Apache-2.0
"""The host's VMs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from donjon.cli.options import COMMON, Common, Connect, Given
from donjon.cli.page import Page
from donjon.cli.result import Result
from donjon.cli.session import Session
from donjon.cli.text import moment, utc
from donjon.model.vm import Disk, Vm


@dataclass(frozen=True, slots=True)
class DriveEntry:
    """A disk or other drive of a VM; `source` None: empty."""

    target: str
    device: str
    source: str | None
    format: str | None


@dataclass(frozen=True, slots=True)
class VmEntry:
    """A VM; `last_restore_point` is None if there is none, or no repository was looked into."""

    name: str
    uuid: str
    state: str
    drives: tuple[DriveEntry, ...]
    labels: dict[str, str]
    last_restore_point: datetime | None


@dataclass(frozen=True, slots=True)
class VmList(Result):
    """All VMs of a host. `repository` is where restore points were looked for, None: nowhere."""

    connection: str
    host: str
    repository: str | None
    vms: tuple[VmEntry, ...]
    notes: tuple[str, ...]

    def show(self, page: Page) -> None:
        """A table, and what could not be seen."""
        headings = ["name", "state", "disks", "uuid", *(["last restore point"] if self.repository else [])]
        rows = [[vm.name, vm.state, _targets(vm), vm.uuid, *self._last(vm)] for vm in self.vms]
        page.table(headings, rows)
        for note in self.notes:
            page.line(f"note: {note}")

    def _last(self, vm: VmEntry) -> list[str]:
        if self.repository is None:
            return []
        return [moment(vm.last_restore_point) if vm.last_restore_point else "never"]


def vms(*, connect: Connect = None, common: Common = COMMON, program: Given) -> VmList:
    """List the host's VMs, and when each was last backed up.

    The last restore point is shown if a repository is given, or known from environment or configuration.

    Examples:
        donjon vms

        donjon vms --connect qemu+ssh://root@kvm2/system -r /backup/vms
    """
    session = Session(common, program)
    settings = session.settings_if_any()
    with session.connect(connect, only_looking=True) as hypervisor:
        found = hypervisor.list_vms()
        uri, host, notes = hypervisor.uri, hypervisor.host_name, hypervisor.notes
    last: dict[str, datetime] = {}
    if settings:
        points = session.restore_points(session.open_repository())
        last = {point.vm_uuid: utc(point.taken_at) for point in points}
    entries = tuple(_entry(vm, last.get(vm.uuid)) for vm in found)
    return VmList(uri, host, settings.location if settings else None, entries, notes)


def _entry(vm: Vm, last: datetime | None) -> VmEntry:
    return VmEntry(vm.name, vm.uuid, vm.power.value, tuple(map(_drive, vm.disks)), vm.labels, last)


def _drive(disk: Disk) -> DriveEntry:
    return DriveEntry(disk.target, disk.device.value, disk.source or disk.remote, disk.image_format)


def _targets(vm: VmEntry) -> str:
    return " ".join(drive.target for drive in vm.drives if drive.device in ("disk", "lun")) or "-"
