# SPDX-License-Identifier: Apache-2.0
"""Which of a VM's disks go into a restore point, and why the others do not.

Source: ECMA-119 (ISO 9660), 8.4: the primary volume descriptor and its volume identifier; cloud-init's NoCloud and
ConfigDrive data sources, which know their medium by it.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from donjon.errors import RefusedError
from donjon.model.restore_point import LeftOut
from donjon.model.vm import Device, Disk, Vm

_VOLUME_DESCRIPTOR = 16 * 2048
_SEED_LABELS = {b"CIDATA", b"CONFIG-2"}


def choose_disks(vm: Vm, skip: Collection[str], *, include_isos: bool) -> tuple[list[Disk], tuple[LeftOut, ...]]:
    """The disks to back up, and what is left out.

    A CD from which cloud-init takes the guest's configuration belongs to the VM, and is never left out.

    Raises:
        RefusedError: there is none, or one that cannot be read from this host.
    """
    chosen, left_out = [], []
    for disk in vm.disks:
        if reason := _reason_to_leave_out(disk, skip, include_isos=include_isos):
            left_out.append(LeftOut(disk.target, reason, disk.source or disk.remote))
        elif disk.source is None:
            raise RefusedError(
                f"cannot back up disk {disk.target} of {vm.name}: it is not a file or device of this host"
                f" ({disk.remote})",
                hint=f"use a restic client inside the guest for its content, and --skip-disk {disk.target} here",
            )
        else:
            chosen.append(disk)
    if not chosen:
        raise RefusedError(f"cannot back up {vm.name}: it has no disk to back up")
    return chosen, tuple(left_out)


def images_of(vm: Vm, targets: Collection[str]) -> set[tuple[str, str | None, str | None, str | None]]:
    """What the VM's disks are, whatever medium is in its other drives."""
    return {
        (disk.target, disk.source, disk.remote, disk.image_format)
        for disk in vm.disks
        if disk.target in targets or disk.device in (Device.DISK, Device.LUN)
    }


def _reason_to_leave_out(disk: Disk, skip: Collection[str], *, include_isos: bool) -> str | None:
    if disk.target in skip:
        return "the operator said so"
    if disk.source is None and disk.remote is None:
        return "the drive is empty"
    if disk.device in (Device.CDROM, Device.FLOPPY) and not include_isos and not _is_seed(disk):
        return "removable medium"
    return None


def _is_seed(disk: Disk) -> bool:
    """Whether cloud-init takes the guest's configuration from this CD. One that cannot be read is no such thing."""
    if disk.source is None:
        return False
    try:
        with Path(disk.source).open("rb") as file:
            file.seek(_VOLUME_DESCRIPTOR)
            descriptor = file.read(72)
    except OSError:
        return False
    return descriptor[1:6] == b"CD001" and descriptor[40:72].strip().upper() in _SEED_LABELS
