# SPDX-License-Identifier: Apache-2.0
"""Backup of a VM as files: it is shut off, shut down for the time it takes, or suspended.

While a qcow2 image is shut off, a bitmap begun at every restore point tells the next one what has changed.

An image with internal snapshots gets none: QEMU goes back to no snapshot of an image that has a bitmap.
Source: QEMU's block/snapshot.c, bdrv_snapshot_goto ("Device has active dirty bitmaps").
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from donjon import trace
from donjon.backup.disks import choose_disks
from donjon.backup.method import Capture, CapturedDisk
from donjon.backup.methods.names import is_bitmap_of, new_bitmap_name
from donjon.backup.standstill import RESUME_DEBT, START_DEBT, Standstill, WhenRunning, standing_still
from donjon.errors import HostError, RefusedError
from donjon.hypervisors.hypervisor import Hypervisor
from donjon.images.bitmaps import add_bitmap, can_have_bitmaps, remove_bitmap
from donjon.images.image import open_image
from donjon.images.image_info import ImageInfo
from donjon.images.inspection import probe
from donjon.images.knowledge import Knowledge, Known, clean_since
from donjon.images.locks import in_use
from donjon.model.restore_point import Manifest
from donjon.model.vm import Disk, Vm
from donjon.state.ledger import Debt, Ledger

__all__ = ["BITMAP_DEBT", "RESUME_DEBT", "START_DEBT", "Offline", "OfflineOptions", "WhenRunning"]

BITMAP_DEBT = "image.bitmap"


@dataclass(frozen=True, slots=True)
class OfflineOptions:
    """What the operator allows and asks for.

    `shutdown_timeout_s` is how long the guest may take. `track_changes` keeps bitmaps in qcow2 images.
    """

    when_running: WhenRunning = WhenRunning.REFUSE
    shutdown_timeout_s: float = 300.0
    include_isos: bool = False
    skip_disks: frozenset[str] = frozenset()
    track_changes: bool = True


@dataclass(frozen=True, slots=True)
class _Image:
    """A disk's image, ready to be read.

    `begun` is owed: the bitmap that begins now. `checkpoint` is the bitmap that tells what changes from now on: that
    one or, where nothing has changed, the one of the restore point before. `stale` are ours that tell nothing any more
    once there is a new restore point.
    """

    disk: Disk
    info: ImageInfo
    known: Knowledge
    begun: Debt | None
    checkpoint: str | None
    stale: tuple[str, ...]
    note: str | None = None


class Offline:
    """The VM is a set of files that nobody writes to."""

    name = "offline"

    def __init__(
        self, hypervisor: Hypervisor | None, ledger: Ledger, repository_id: str, options: OfflineOptions
    ) -> None:
        """Prepare; `hypervisor` is None for a VM of which only the disks are known."""
        self._hypervisor = hypervisor
        self._ledger = ledger
        self._repository_id = repository_id
        self._options = options

    @contextmanager
    def capture(self, vm: Vm, since: Manifest | None) -> Iterator[Capture]:
        """See Method."""
        options = self._options
        disks, left_out = choose_disks(vm, options.skip_disks, include_isos=options.include_isos)
        guest = standing_still(vm, self._hypervisor, self._ledger, options.when_running, options.shutdown_timeout_s)
        with guest as still, ExitStack() as owed, ExitStack() as opened:
            still.check_disks({disk.target for disk in disks})
            found = [_examine(disk, still) for disk in disks]
            name = new_bitmap_name(self._repository_id)
            images = [
                self._begin(disk, info, since, still, name, owed) for disk, info in zip(disks, found, strict=True)
            ]
            captured = tuple(_open(image, still, opened) for image in images)

            def verify() -> None:
                opened.close()
                still.verify()

            def commit() -> None:
                for image in images:
                    _commit(image)

            yield Capture(vm, still.consistency, captured, left_out, tuple(_notes(images)), verify, commit)

    def _begin(
        self, disk: Disk, found: ImageInfo, since: Manifest | None, still: Standstill, name: str, owed: ExitStack
    ) -> _Image:
        """Judge what is known of an image, and have its changes noted from now on.

        What is known is judged again after a bitmap was begun: what happened before is in the old one, what happens
        from here on in the new one, and nothing in between. An image that has not changed at all keeps the old one.
        """
        point = since.disk(disk.target) if since else None
        beside = since.beside(disk.target) if since else ()
        known = clean_since(found, point, beside)
        if still.has_images_open:
            return _Image(disk, found, known, None, None, ())
        mine = {bitmap.name for bitmap in found.bitmaps if is_bitmap_of(self._repository_id, bitmap.name)}
        if point is not None and known.kind is Known.UNCHANGED:
            return _Image(disk, found, known, None, point.checkpoint, tuple(mine - {point.checkpoint}))
        if not self._options.track_changes or not can_have_bitmaps(found) or found.internal_snapshots:
            return _Image(disk, found, known, None, None, tuple(mine))
        begun = owed.enter_context(self._ledger.owing(BITMAP_DEBT, path=found.path, bitmap=name))
        trace.reached("offline.bitmap-owed")
        try:
            add_bitmap(found.path, name)
        except HostError as error:
            return _Image(disk, found, known, None, None, tuple(mine), note=f"the next backup reads all: {error}")
        trace.reached("offline.bitmap-begun")
        info = probe(found.path, found.format)
        return _Image(disk, info, clean_since(info, point, beside), begun, name, tuple(mine))


def _examine(disk: Disk, still: Standstill) -> ImageInfo:
    assert disk.source is not None
    info = probe(disk.source, disk.image_format)
    if not still.has_images_open and in_use(disk.source):
        raise RefusedError(
            f"cannot back up {disk.source}: another process has it open for writing",
            hint="shut the guest down; if libvirt runs it, say its name instead of its disks",
        )
    return info


def _open(image: _Image, still: Standstill, opened: ExitStack) -> CapturedDisk:
    source = opened.enter_context(
        open_image(
            image.info,
            base_bitmap=image.known.bitmap,
            unchanged=image.known.kind is Known.UNCHANGED,
            force_share=still.has_images_open,
        )
    )
    return CapturedDisk(
        disk=image.disk,
        source=source,
        reason=image.known.reason,
        image_format=image.info.format,
        image_options=image.info.options,
        stamps=source.stamps,
        checkpoint=image.checkpoint,
        had_internal_snapshots=image.info.internal_snapshots,
    )


def _commit(image: _Image) -> None:
    """The new bitmap stays, older ones go. One that cannot be removed now is no harm: the next backup removes it."""
    if image.begun:
        image.begun.forgive()
    for name in image.stale:
        trace.reached("offline.bitmap-stale")
        try:
            remove_bitmap(image.info.path, name)
        except HostError:
            return


def _notes(images: list[_Image]) -> Iterator[str]:
    for image in images:
        if image.disk.shared:
            yield f"disk {image.disk.target} is shared with other guests"
        if image.note:
            yield image.note
