# SPDX-License-Identifier: Apache-2.0
"""Backup of a VM as files: it is shut off, shut down for the time it takes, or suspended.

While a qcow2 image is shut off, a bitmap begun at every restore point tells the next one what has changed. A bitmap's
name carries the repository's id, so that backups into two repositories do not take each other's away.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import Enum

from donjon import trace
from donjon.backup.method import Capture, CapturedDisk
from donjon.errors import HostError, RefusedError
from donjon.hypervisors.hypervisor import Hypervisor
from donjon.images.bitmaps import add_bitmap, can_have_bitmaps
from donjon.images.image import OpenImage, open_image
from donjon.images.image_info import ImageInfo
from donjon.images.inspection import probe
from donjon.images.knowledge import Known, clean_since
from donjon.images.locks import in_use
from donjon.model.restore_point import Consistency, LeftOut, Manifest
from donjon.model.vm import Device, Disk, Power, Vm
from donjon.state.ledger import Debt, Ledger

BITMAP_DEBT = "image.bitmap"
START_DEBT = "guest.start"
RESUME_DEBT = "guest.resume"

_LATE_SHUTDOWN_S = 30.0
_POLL_S = 0.5


class WhenRunning(Enum):
    """What may be done to a guest that runs."""

    REFUSE = "refuse"
    SHUT_DOWN = "shutdown"
    SUSPEND = "suspend"


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


class Offline:
    """The VM is a set of files that nobody writes to."""

    name = "offline"

    def __init__(
        self, hypervisor: Hypervisor | None, ledger: Ledger, repository_id: str, options: OfflineOptions
    ) -> None:
        """Prepare; `hypervisor` is None for a VM of which only the disks are known."""
        self._hypervisor = hypervisor
        self._ledger = ledger
        self._bitmap_prefix = f"donjon-{repository_id[:8]}-"
        self._options = options

    @contextmanager
    def capture(self, vm: Vm, since: Manifest | None) -> Iterator[Capture]:
        """See Method."""
        disks, left_out = self._choose_disks(vm)
        with ExitStack() as held:
            consistency, suspended = self._hold_still(vm, held)
            images = {disk.target: self._examine(disk, suspended) for disk in disks}
            bitmaps = {} if suspended else self._begin_bitmaps(images, held)
            with ExitStack() as sources:
                captured = [
                    self._open(disk, images[disk.target], bitmaps.get(disk.target), since, suspended, sources)
                    for disk in disks
                ]
                stale = [(info.path, name) for info in images.values() for name in self._own_bitmaps(info)]

                def verify() -> None:
                    for disk in captured:
                        if isinstance(disk.source, OpenImage):
                            disk.source.verify_unchanged()
                    self._check_still(vm)

                committed = False

                def commit() -> None:
                    nonlocal committed
                    for debt in bitmaps.values():
                        debt.forgive()
                    committed = True

                yield Capture(vm, consistency, tuple(captured), left_out, _notes(disks), verify, commit)
            if committed:
                self._forget_bitmaps(stale)

    def _choose_disks(self, vm: Vm) -> tuple[list[Disk], tuple[LeftOut, ...]]:
        chosen, left_out = [], []
        for disk in vm.disks:
            if disk.target in self._options.skip_disks:
                left_out.append(LeftOut(disk.target, "the operator said so", disk.source or disk.remote))
            elif disk.source is None and disk.remote is None:
                left_out.append(LeftOut(disk.target, "the drive is empty"))
            elif disk.device in (Device.CDROM, Device.FLOPPY) and not self._options.include_isos:
                left_out.append(LeftOut(disk.target, "removable medium", disk.source or disk.remote))
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

    def _hold_still(self, vm: Vm, held: ExitStack) -> tuple[Consistency, bool]:
        """How orderly the guest stands still, and whether its QEMU has the images open."""
        if self._hypervisor is None or vm.power is Power.UNKNOWN:
            return Consistency.OFFLINE, False
        power = self._hypervisor.power(vm.uuid)
        if power is Power.OFF:
            return Consistency.OFFLINE, False
        if power is Power.PAUSED:
            return Consistency.CRASH, True
        if self._options.when_running is WhenRunning.SHUT_DOWN:
            held.enter_context(self._ledger.owing(START_DEBT, uri=self._hypervisor.uri, uuid=vm.uuid))
            trace.reached("offline.before-shutdown")
            self._shut_down(self._hypervisor, vm)
            return Consistency.OFFLINE, False
        if self._options.when_running is WhenRunning.SUSPEND:
            held.enter_context(self._ledger.owing(RESUME_DEBT, uri=self._hypervisor.uri, uuid=vm.uuid))
            trace.reached("offline.before-suspend")
            self._hypervisor.suspend(vm.uuid)
            return Consistency.CRASH, True
        raise RefusedError(
            f"cannot back up {vm.name}: it is running",
            hint="add --shutdown to shut it down and start it again afterwards, or --suspend to stop it meanwhile",
        )

    def _shut_down(self, hypervisor: Hypervisor, vm: Vm) -> None:
        """A guest that missed its time may still be about to end: wait a little, so that it is started again."""
        try:
            hypervisor.shut_down(vm.uuid, self._options.shutdown_timeout_s)
        except HostError:
            deadline_s = time.monotonic() + min(_LATE_SHUTDOWN_S, self._options.shutdown_timeout_s)
            while time.monotonic() < deadline_s and hypervisor.power(vm.uuid) is not Power.OFF:
                time.sleep(_POLL_S)
            raise
        trace.reached("offline.shut-down")

    def _check_still(self, vm: Vm) -> None:
        if self._hypervisor is None or vm.power is Power.UNKNOWN:
            return
        if self._hypervisor.power(vm.uuid) is Power.RUNNING:
            raise HostError(f"cannot back up {vm.name}: it was started while its disks were read", hint="try again")

    def _examine(self, disk: Disk, suspended: bool) -> ImageInfo:
        assert disk.source is not None
        info = probe(disk.source, disk.image_format)
        if not suspended and in_use(disk.source):
            raise RefusedError(
                f"cannot back up {disk.source}: another process has it open for writing",
                hint="shut the guest down; if libvirt runs it, say its name instead of its disks",
            )
        return info

    def _begin_bitmaps(self, images: dict[str, ImageInfo], held: ExitStack) -> dict[str, Debt]:
        """New bitmaps by target; each is owed until the restore point that they begin at exists."""
        if not self._options.track_changes:
            return {}
        begun = {}
        for target, info in images.items():
            if not can_have_bitmaps(info):
                continue
            name = self._bitmap_prefix + secrets.token_hex(8)
            begun[target] = held.enter_context(self._ledger.owing(BITMAP_DEBT, path=info.path, bitmap=name))
            trace.reached("offline.bitmap-owed")
            add_bitmap(info.path, name)
        return begun

    def _open(
        self,
        disk: Disk,
        examined: ImageInfo,
        bitmap: Debt | None,
        since: Manifest | None,
        suspended: bool,
        held: ExitStack,
    ) -> CapturedDisk:
        point = since.disk(disk.target) if since else None
        known = clean_since(examined, point)
        # The bitmap just begun has changed the image file, and nothing else.
        info = probe(examined.path, examined.format) if bitmap else examined
        source = held.enter_context(
            open_image(
                info,
                base_bitmap=known.bitmap if known.kind is Known.BITMAP else None,
                unchanged=known.kind is Known.UNCHANGED,
                force_share=suspended,
            )
        )
        return CapturedDisk(
            disk=disk,
            source=source,
            reason=known.reason,
            image_format=info.format,
            image_options=info.options,
            stamps=source.stamps,
            checkpoint=str(bitmap.args["bitmap"]) if bitmap else None,
            had_internal_snapshots=info.internal_snapshots,
        )

    def _own_bitmaps(self, info: ImageInfo) -> list[str]:
        """Those that an earlier backup into this repository left in the image."""
        return [bitmap.name for bitmap in info.bitmaps if bitmap.name.startswith(self._bitmap_prefix)]

    def _forget_bitmaps(self, stale: list[tuple[str, str]]) -> None:
        """Remove bitmaps that nothing builds upon any more; by way of the ledger, which makes good for a crash."""
        for path, name in stale:
            with self._ledger.owing(BITMAP_DEBT, path=path, bitmap=name):
                trace.reached("offline.bitmap-stale")


def _notes(disks: list[Disk]) -> tuple[str, ...]:
    return tuple(f"disk {disk.target} is shared with other guests" for disk in disks if disk.shared)
