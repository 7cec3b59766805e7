# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of running guests, reconciled with the repository: which of them tell what changed since when.

A checkpoint may be forgotten by the hypervisor while its bitmaps are there (the VM was migrated, defined anew, or
backed up while it was off), or be known while its bitmaps are broken (QEMU was killed). It counts only if both are
whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from donjon.backup.methods.names import is_bitmap_of
from donjon.hypervisors.hot_backup import CheckpointError, HotBackup
from donjon.hypervisors.hypervisor import Hypervisor
from donjon.hypervisors.live_hypervisor import LiveHypervisor
from donjon.images.bitmaps import can_have_bitmaps, remove_bitmap
from donjon.images.image_info import ImageInfo
from donjon.images.knowledge import Knowledge, Known, tracked_since
from donjon.model.restore_point import Manifest
from donjon.model.vm import Disk, Power

CHECKPOINT_DEBT = "vm.checkpoint"


@dataclass(frozen=True, slots=True)
class LiveDisk:
    """A disk of a running guest. `tracked`: its changes can be recorded from the next restore point on."""

    disk: Disk
    info: ImageInfo
    known: Knowledge
    tracked: bool

    @property
    def target(self) -> str:
        """The guest's name for it."""
        return self.disk.target

    @property
    def base(self) -> str | None:
        """The checkpoint that tells what has changed, if one does."""
        return self.known.bitmap

    def unknown(self, reason: str) -> LiveDisk:
        """The same disk, of which nothing is known."""
        return replace(self, known=Knowledge(Known.NOTHING, reason))


def examine(disk: Disk, info: ImageInfo, since: Manifest | None, *, track: bool) -> LiveDisk:
    """What can be known of a disk beforehand, and from now on.

    An image with internal snapshots is not tracked: QEMU goes back to no snapshot of an image that has a bitmap. The
    bitmap of a disk that other guests write to, too, knows nothing of their changes.
    """
    if disk.shared:
        return LiveDisk(disk, info, Knowledge(Known.NOTHING, "other guests may write to the disk, too"), tracked=False)
    tracked = track and can_have_bitmaps(info) and not info.internal_snapshots and not disk.read_only
    point, beside = (since.disk(disk.target), since.beside(disk.target)) if since else (None, ())
    return LiveDisk(disk, info, tracked_since(info, point, beside), tracked)


def reconcile(host: HotBackup, uuid: str, disks: Iterable[LiveDisk]) -> list[LiveDisk]:
    """The disks, each with a base only if the hypervisor vouches for it.

    Raises:
        HostError: the hypervisor cannot be asked.
    """
    disks = list(disks)
    by_base: dict[str, list[LiveDisk]] = {}
    for disk in disks:
        if disk.base is not None:
            by_base.setdefault(disk.base, []).append(disk)
    broken: dict[str, str] = {}
    for base, on in by_base.items():
        broken |= _find_broken(host, uuid, base, [disk.target for disk in on])
    return [disk.unknown(broken[disk.target]) if disk.target in broken else disk for disk in disks]


def find_stale(
    host: HotBackup, uuid: str, repository_id: str, disks: Iterable[LiveDisk], since: Manifest | None
) -> frozenset[str]:
    """Names of all checkpoints and bitmaps that earlier restore points in the same repository began with.

    Of one that the hypervisor forgot, and that is of no use any more, only the last restore point knows.
    """
    points = (point.checkpoint for point in (since.disks if since else ()) if point.checkpoint)
    bitmaps = (bitmap.name for disk in disks for bitmap in disk.info.bitmaps)
    checkpoints = (checkpoint.name for checkpoint in host.checkpoints(uuid))
    return frozenset(name for name in (*points, *bitmaps, *checkpoints) if is_bitmap_of(repository_id, name))


def encode_images(disks: Iterable[LiveDisk]) -> str:
    """The images that may have bitmaps, by target, as a debt keeps them."""
    return json.dumps({disk.target: disk.info.path for disk in disks if can_have_bitmaps(disk.info)})


def undo_checkpoint(host: LiveHypervisor, uuid: str, checkpoint: str, images: str) -> None:
    """Delete a checkpoint, on the host and in the images.

    Raises:
        HostError: it is still there.
    """
    of: dict[str, str] = json.loads(images)
    if _is_off(host, uuid):
        host.delete_checkpoint(uuid, checkpoint)
        for path in of.values():
            if Path(path).exists():
                remove_bitmap(path, checkpoint)
    else:
        _delete(host, uuid, checkpoint, list(of))


def _is_off(host: Hypervisor, uuid: str) -> bool:
    """Whether no process here has its images open; a VM that is gone is off."""
    return all(vm.uuid != uuid or vm.power is Power.OFF or vm.is_saved for vm in host.list_vms())


def _find_broken(host: HotBackup, uuid: str, base: str, targets: list[str]) -> dict[str, str]:
    """Why a checkpoint tells nothing of some disks; the others are then known to be whole."""
    try:
        host.adopt_checkpoint(uuid, base, targets)
    except CheckpointError as error:
        if len(targets) == 1:
            return {targets[0]: _reason(error)}
    else:
        return {}
    broken: dict[str, str] = {}
    for target in targets:
        broken |= _find_broken(host, uuid, base, [target])
    whole = [target for target in targets if target not in broken]
    if whole:
        host.adopt_checkpoint(uuid, base, whole)
    return broken


def _reason(error: CheckpointError) -> str:
    return f"the bitmap begun at the last restore point is lost or broken ({error})"


def _delete(host: HotBackup, uuid: str, name: str, targets: list[str]) -> None:
    """Delete a checkpoint, and bitmaps of that name that it does not, or no longer, say it has."""
    if any(checkpoint.name == name for checkpoint in host.checkpoints(uuid)):
        host.delete_checkpoint(uuid, name)
    if targets and len(_find_broken(host, uuid, name, targets)) < len(targets):
        host.delete_checkpoint(uuid, name)
