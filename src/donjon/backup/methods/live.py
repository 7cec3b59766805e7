# SPDX-License-Identifier: Apache-2.0
"""Backup of a VM while its guest runs: a job of the hypervisor holds one moment of all its disks, and serves it.

What the guest overwrites meanwhile is kept in a scratch folder until it has been read. The guest is frozen only while
the job begins; not a byte is read then. Each disk whose image can keep a bitmap is read from the checkpoint of the last
restore point on, each other one in full.

Source: libvirt.org/kbase/live_full_disk_backup.html, formatbackup.html, formatcheckpoint.html; QEMU's
docs/interop/bitmaps.rst.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from donjon import trace
from donjon.backup.disks import choose_disks, images_of
from donjon.backup.method import Capture, CapturedDisk
from donjon.backup.methods.checkpoints import (
    CHECKPOINT_DEBT,
    LiveDisk,
    encode_images,
    examine,
    find_stale,
    reconcile,
)
from donjon.backup.methods.names import new_bitmap_name
from donjon.backup.scratch import SCRATCH_DEBT, scratch_for
from donjon.errors import HostError, RefusedError
from donjon.hypervisors.hot_backup import CheckpointError, DiskJob
from donjon.hypervisors.live_hypervisor import LiveHypervisor
from donjon.images.image_info import ImageInfo
from donjon.images.inspection import probe
from donjon.images.qemu_image import ALLOCATION, QemuImage
from donjon.model.restore_point import Consistency, ImageStamp, LeftOut, Manifest
from donjon.model.vm import Power, Vm
from donjon.nbd.client import NbdClient
from donjon.quiesce.freeze import Freezer, Frozen, Quiesce
from donjon.quiesce.watchdog import Alarm, Watchdog
from donjon.quiesce.witness import Witness
from donjon.state.ledger import Debt, Ledger

__all__ = ["CHECKPOINT_DEBT", "JOB_DEBT", "SCRATCH_DEBT", "GuestEndedError", "Live", "LiveOptions", "StartWatchdog"]

StartWatchdog = Callable[[], AbstractContextManager[Watchdog]]
"""Starts the process that looks after the guests if this one cannot; it ends with the block."""

JOB_DEBT = "vm.backup-job"

_SOCKET = "nbd"
_MIB = 1 << 20


class GuestEndedError(HostError):
    """The guest was turned off while it was backed up."""


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """What the operator allows and asks for.

    `least` is the consistency below which the backup fails; None: any will do, and a note says what is missing.
    `scratch_directory` gets what the guest overwrites meanwhile; when fewer than `least_free` bytes are left there, the
    backup is given up, so that the guest goes on. No guest stays frozen for longer than `freeze_deadline_s`. `witness`
    are files in the guests whose hashes are kept.
    """

    include_isos: bool = False
    skip_disks: frozenset[str] = frozenset()
    track_changes: bool = True
    quiesce: Quiesce = Quiesce.FILESYSTEM
    least: Consistency | None = None
    scratch_directory: Path = Path("/var/tmp")  # noqa: S108 - sticky, on disk, and entered by QEMU's user
    least_free: int = 512 * _MIB
    freeze_deadline_s: float = 10.0
    witness: tuple[str, ...] = ()


@dataclass
class _Job:
    """A VM's backup job: what is owed for it, and `under_way` until it has ended.

    `begun` is the new checkpoint, `stale` are older ones. `low` tells when the scratch space has run out.
    """

    vm: Vm
    left_out: tuple[LeftOut, ...]
    disks: list[LiveDisk]
    stale: frozenset[str]
    folder: Path
    checkpoint: str | None
    begun: Debt | None
    under_way: ExitStack = field(default_factory=ExitStack)
    low: Alarm | None = None

    @property
    def socket(self) -> Path:
        return self.folder / _SOCKET


class Live:
    """The guest runs on."""

    name = "live"

    def __init__(
        self,
        hypervisor: LiveHypervisor,
        ledger: Ledger,
        repository_id: str,
        options: LiveOptions,
        start_watchdog: StartWatchdog,
    ) -> None:
        self._hypervisor = hypervisor
        self._ledger = ledger
        self._repository_id = repository_id
        self._options = options
        self._start_watchdog = start_watchdog

    @contextmanager
    def capture(self, vm: Vm, since: Manifest | None) -> Iterator[Capture]:
        """See Method."""
        with self.capture_together([(vm, since)]) as captures:
            yield captures[0]

    @contextmanager
    def capture_together(self, wanted: Sequence[tuple[Vm, Manifest | None]]) -> Iterator[list[Capture]]:
        """See GroupMethod."""
        with self._start_watchdog() as watchdog, ExitStack() as owed, ExitStack() as reading:
            with self._noticing_an_end([vm for vm, _ in wanted]):
                jobs = [self._prepare(vm, since, owed) for vm, since in wanted]
                captures = self._begin_and_open(jobs, watchdog, reading)
            trace.reached("live.captured")
            yield captures

    def _begin_and_open(self, jobs: Sequence[_Job], watchdog: Watchdog, reading: ExitStack) -> list[Capture]:
        """Have all disks of one moment ready to be read."""
        freezer = Freezer(self._hypervisor, self._ledger, watchdog, self._options.freeze_deadline_s)
        witness = Witness(self._hypervisor, self._options.witness)
        witness.ask_before([job.vm.uuid for job in jobs])
        self._begin_together(jobs, freezer)
        captures = [self._capture(job, freezer.outcome(job.vm.uuid), reading) for job in jobs]
        # Only now: a job must not end while a client is in the middle of its handshake.
        for job in jobs:
            watching = watchdog.watching_space(job.vm.uuid, job.folder, job.socket, self._options.least_free)
            job.low = reading.enter_context(watching)
        return [_with_witness(capture, witness) for capture in captures]

    def _prepare(self, vm: Vm, since: Manifest | None, owed: ExitStack) -> _Job:
        """Look at a VM, and owe all that is about to be done: the scratch folder, the checkpoint, the job."""
        host, options = self._hypervisor, self._options
        disks, left_out = choose_disks(vm, options.skip_disks, include_isos=options.include_isos)
        self._check_free(vm)
        live = [
            examine(disk, probe(str(disk.source), disk.image_format), since, track=options.track_changes)
            for disk in disks
        ]
        live = reconcile(host, vm.uuid, live)
        stale = find_stale(host, vm.uuid, self._repository_id, live, since)
        folder = owed.enter_context(
            scratch_for(self._ledger, options.scratch_directory, host.qemu_owner(vm.uuid), options.least_free)
        )
        checkpoint, begun = None, None
        if any(disk.tracked for disk in live):
            checkpoint = new_bitmap_name(self._repository_id)
            begun = owed.enter_context(
                self._ledger.owing(
                    CHECKPOINT_DEBT, uri=host.uri, uuid=vm.uuid, checkpoint=checkpoint, images=encode_images(live)
                )
            )
        job = _Job(vm, left_out, live, stale, folder, checkpoint, begun)
        owed.enter_context(job.under_way)
        job.under_way.enter_context(self._ledger.owing(JOB_DEBT, uri=host.uri, uuid=vm.uuid, socket=str(job.socket)))
        trace.reached("live.owed")
        return job

    def _check_free(self, vm: Vm) -> None:
        """Do nothing if no other job is in the way: beginning ours would wait for it, and fail after 30 s."""
        job = self._hypervisor.active_job(vm.uuid)
        if job is None:
            return
        if job.what == "backup":
            raise RefusedError(
                f"cannot back up {vm.name}: another backup of it is under way",
                hint="wait until it is done; if its program has died, `virsh domjobabort` ends it",
            )
        raise RefusedError(f"cannot back up {vm.name}: it is busy ({job.what})", hint="wait until that is over")

    def _begin_together(self, jobs: Sequence[_Job], freezer: Freezer) -> None:
        """Freeze all guests, begin their jobs, thaw them; the more guests, the more hands."""
        with (
            ThreadPoolExecutor(len(jobs), "donjon-begin") as hands,
            freezer.frozen([job.vm for job in jobs], self._options.quiesce),
        ):
            trace.reached("live.frozen")
            for begun in [hands.submit(self._begin, job) for job in jobs]:
                begun.result()
            trace.reached("live.begun")

    def _begin(self, job: _Job) -> None:
        try:
            self._begin_job(job)
        except CheckpointError as error:
            job.disks = [
                disk.unknown(f"the bitmap cannot be used ({error})") if disk.base else disk for disk in job.disks
            ]
            self._begin_job(job)

    def _begin_job(self, job: _Job) -> None:
        wanted = [
            DiskJob(disk.target, job.folder / f"{disk.target}.scratch", since=disk.base, track=disk.tracked)
            for disk in job.disks
        ]
        self._hypervisor.begin_backup(job.vm.uuid, wanted, job.socket, job.checkpoint)

    def _capture(self, job: _Job, frozen: Frozen, reading: ExitStack) -> Capture:
        self._check_consistency(job.vm, frozen)
        clients = reading.enter_context(ExitStack())
        captured = tuple(_open(job, disk, clients) for disk in job.disks)
        self._check_disks(job)

        def verify() -> None:
            clients.close()
            trace.reached("live.read")
            job.under_way.close()
            trace.reached("live.ended")

        def commit() -> None:
            with self._dropping_stale(job):
                if job.begun:
                    job.begun.forgive()
                trace.reached("live.forgiven")

        notes = tuple(_notes(job, frozen))
        moment = job.vm, frozen.consistency, captured, job.left_out, notes
        return Capture(
            *moment,
            verify,
            commit,
            explain=partial(self._explain, job),
            frozen_s=frozen.frozen_s,
            live_definition=job.vm.live_definition,
        )

    def _check_consistency(self, vm: Vm, frozen: Frozen) -> None:
        least = self._options.least
        if least is not None and frozen.consistency < least:
            reason = frozen.note or "it was not asked for"
            raise HostError(
                f"cannot back up {vm.name} with {least.name.lower()} consistency: {reason}",
                hint="`--least crash` backs it up all the same",
            )

    def _check_disks(self, job: _Job) -> None:
        targets = {disk.target for disk in job.disks}
        if images_of(self._hypervisor.find_vm(job.vm.uuid), targets) != images_of(job.vm, targets):
            raise HostError(f"cannot back up {job.vm.name}: its disks were changed meanwhile", hint="try again")

    @contextmanager
    def _dropping_stale(self, job: _Job) -> Iterator[None]:
        """Owe it that what earlier restore points left is deleted in the end: no backup will ask for it any more."""
        images = encode_images(job.disks)
        with ExitStack() as owed:
            for name in job.stale:
                owed.enter_context(
                    self._ledger.owing(
                        CHECKPOINT_DEBT, uri=self._hypervisor.uri, uuid=job.vm.uuid, checkpoint=name, images=images
                    )
                )
            yield

    def _explain(self, job: _Job, error: HostError) -> HostError:
        """Why its disks cannot be read any more, where that is known."""
        if job.low is not None and job.low.fired:
            return HostError(
                f"cannot back up {job.vm.name}: the space in {job.folder.parent} ran out, so the backup was given"
                " up; the guest goes on",
                hint="make room, or name another local disk with --scratch",
            )
        return _ended(job.vm) if self._has_ended(job.vm) else error

    @contextmanager
    def _noticing_an_end(self, vms: Sequence[Vm]) -> Iterator[None]:
        """Say so if it fails because a guest was turned off."""
        try:
            yield
        except HostError as error:
            for vm in vms:
                if self._has_ended(vm):
                    raise _ended(vm) from error
            raise

    def _has_ended(self, vm: Vm) -> bool:
        """Whether the guest is off, or gone with its definition; False if nobody can say."""
        try:
            return all(known.uuid != vm.uuid or known.power is Power.OFF for known in self._hypervisor.list_vms())
        except HostError:
            return False


def _ended(vm: Vm) -> GuestEndedError:
    return GuestEndedError(f"cannot back up {vm.name}: it was turned off meanwhile", hint="try again")


def _open(job: _Job, disk: LiveDisk, clients: ExitStack) -> CapturedDisk:
    contexts = [ALLOCATION]
    if disk.base is not None:
        contexts.append(f"qemu:dirty-bitmap:backup-{disk.target}")
    client = NbdClient.connect_unix(job.socket, disk.target, contexts, disk=f"{disk.target} of {job.vm.name}")
    clients.callback(client.close)
    client.connect_fully()  # QEMU hangs, and the guest with it, when the job ends in the middle of a handshake.
    if client.size != disk.info.size:
        raise HostError(f"cannot back up {job.vm.name}: {disk.target} was resized meanwhile", hint="try again")
    return CapturedDisk(
        disk=disk.disk,
        source=QemuImage(client, incremental=disk.base is not None),
        reason=disk.known.reason,
        image_format=disk.info.format,
        image_options=disk.info.options,
        stamps=_stamps(disk.info),
        checkpoint=job.checkpoint if disk.tracked else None,
        had_internal_snapshots=disk.info.internal_snapshots,
    )


def _stamps(info: ImageInfo) -> tuple[ImageStamp, ...]:
    """The image's own is never settled: the guest goes on writing."""
    own = len(info.chain[0].files)
    return (*(replace(stamp, settled=False) for stamp in info.stamps[:own]), *info.stamps[own:])


def _with_witness(capture: Capture, witness: Witness) -> Capture:
    sworn = witness.ask_after(capture.vm.uuid, capture.consistency)
    return replace(capture, witness=sworn.hashes, notes=(*capture.notes, *sworn.notes))


def _notes(job: _Job, frozen: Frozen) -> Iterator[str]:
    if frozen.note:
        yield frozen.note
    for disk in job.disks:
        if disk.disk.shared:
            yield f"disk {disk.target} is shared with other guests"
