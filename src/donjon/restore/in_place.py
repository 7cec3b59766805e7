# SPDX-License-Identifier: Apache-2.0
"""Roll a VM's disks back where they are. The present ones are kept beside, unless the operator says otherwise."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from donjon import trace
from donjon.errors import ConfigError, HostError, RefusedError
from donjon.hypervisors.definition import has_backing_chain
from donjon.hypervisors.hypervisor import Hypervisor
from donjon.images.inspection import probe
from donjon.images.locks import in_use
from donjon.images.new_file import Announce, silent
from donjon.model.progress import Progress
from donjon.model.restore_point import DiskPoint, Manifest, RestorePoint
from donjon.model.vm import Disk, Power, Vm
from donjon.repository.repository import Repository
from donjon.restore.disk import find_disk, prove_disk, refuse_device, restore_disk
from donjon.restore.made import Identity, identity, is_untouched, made
from donjon.restore_points import load_manifest
from donjon.state.ledger import Ledger

SWAP_DEBT = "restore.swap"
_WRITABLE = ("raw", "qcow2")


@dataclass(frozen=True, slots=True)
class RolledBack:
    """A disk that was rolled back; `kept` is where its present state is now, None if it was discarded."""

    target: str
    path: str
    kept: str | None


@dataclass(frozen=True, slots=True)
class RollBackReport:
    """What was rolled back, to which restore point, and what the operator should know."""

    restore_point: RestorePoint
    vm_name: str
    disks: tuple[RolledBack, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Step:
    """One disk on its way: restored beside the present image, then put in its place."""

    point: DiskPoint
    path: Path
    image_format: str
    beside: Path
    kept: Path


@dataclass(frozen=True, slots=True)
class _Swap:
    """An image that is moved away for a restored one, in words that the ledger keeps."""

    path: str
    kept: str
    restored: Identity


def roll_back(
    repository: Repository,
    point: RestorePoint,
    ledger: Ledger,
    vm: Vm,
    progress: Progress,
    *,
    hypervisor: Hypervisor,
    targets: tuple[str, ...] = (),
    discard_present: bool = False,
) -> RollBackReport:
    """Put disks back to what they were at a restore point.

    Everything is restored beside the present images, or proven at least, before they are swapped all at once. Devices
    are written in place.

    Args:
        repository: open.
        point: of this VM.
        ledger: keeps the swap whole.
        vm: as it is now.
        progress: is told.
        hypervisor: that has the VM.
        targets: which disks; all of the restore point if empty.
        discard_present: the present state may be lost.

    Raises:
        RefusedError: the VM is not off, an image is in use, or the present state could not be kept.
        IntegrityError: the restore point is damaged; nothing was changed.
        HostError: the host stands in the way; the images are as they were, a device may be half written.
    """
    manifest = load_manifest(repository, point)
    chosen = [find_disk(manifest, target) for target in dict.fromkeys(targets)] if targets else list(manifest.disks)
    steps = [_plan(vm, disk, discard_present) for disk in chosen]
    _refuse_unless_still(hypervisor, vm, steps)
    with made(ledger) as beside:
        for step in _on_files(steps):
            _restore(repository, point, step, step.beside, progress, announce=beside.making(step.beside))
        for step in _on_devices(steps):
            refuse_device(step.path, step.point)
            prove_disk(repository, point, step.point)
        trace.reached("roll-back.restored")
        _refuse_unless_still(hypervisor, vm, steps)
        for step in _on_devices(steps):
            _restore(repository, point, step, step.path, progress)
        _swap(ledger, _on_files(steps))
    return RollBackReport(
        point, vm.name, tuple(_finish(step, discard_present) for step in steps), (_note_on_the_rest(manifest),)
    )


def put_back(swaps: str) -> None:
    """Undo a swap: every image that was moved away goes back to its place, or none does.

    `swaps` is JSON: a list of `_Swap`.

    Raises:
        HostError: somebody has used the restored images since, so that they may hold what nobody wants to lose.
    """
    moved = [swap for swap in (_Swap(**found) for found in json.loads(swaps)) if Path(swap.kept).exists()]
    for swap in moved:
        path = Path(swap.path)
        if (path.exists() or path.is_symlink()) and not is_untouched(path, swap.restored):
            raise HostError(
                f"cannot put {swap.kept} back: {path} is in use or was written to since it was restored"
                " (decide which of the two to keep: remove the first, or move it over the second)"
            )
    for swap in moved:
        Path(swap.kept).replace(swap.path)


def _note_on_the_rest(manifest: Manifest) -> str:
    names = {"nvram": "the firmware variables", "tpm": "the TPM's state"}
    rest = [names[file.role] for file in manifest.side_files if file.role in names]
    return f"only disks were rolled back: {', '.join(['the definition', *rest])} stayed as of now"


def _on_files(steps: list[_Step]) -> list[_Step]:
    return [step for step in steps if not step.path.is_block_device()]


def _on_devices(steps: list[_Step]) -> list[_Step]:
    return [step for step in steps if step.path.is_block_device()]


def _refuse_unless_still(hypervisor: Hypervisor, vm: Vm, steps: list[_Step]) -> None:
    """Asked before anything is done, and again before anything is replaced: restoring takes its time."""
    if hypervisor.power(vm.uuid) is not Power.OFF:
        raise RefusedError(f"cannot roll {vm.name} back: it is not shut off", hint=f"`virsh shutdown {vm.name}` first")
    for step in steps:
        if step.path.exists() and in_use(step.path):
            raise RefusedError(f"cannot roll {step.path} back: another process has it open for writing")


def _restore(
    repository: Repository,
    point: RestorePoint,
    step: _Step,
    path: Path,
    progress: Progress,
    *,
    announce: Announce = silent,
) -> None:
    progress.begin(step.point.target, step.point.size)
    restore_disk(
        repository,
        point,
        step.point,
        path,
        image_format=step.image_format,
        announce=announce,
        progress=progress.advance,
    )


def _plan(vm: Vm, disk: DiskPoint, discard_present: bool) -> _Step:
    present = next((d for d in vm.disks if d.target == disk.target), None)
    if present is None or present.source is None:
        raise ConfigError(
            f"cannot roll disk {disk.target} back: {vm.name} has no such disk now",
            hint=f"restore it to a file with --disk {disk.target} --to FILE, and attach that",
        )
    if vm.definition is not None and has_backing_chain(vm.definition, disk.target):
        raise RefusedError(
            f"cannot roll disk {disk.target} back: the definition of {vm.name} names images behind it (backingStore),"
            " and a restored image has none",
            hint="restore the VM under another name with --name, or take <backingStore> out of the definition",
        )
    path = Path(present.source).resolve()
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    step = _Step(
        disk,
        path,
        _format_of(present, path),
        path.with_name(f"{path.name}.restored-{stamp}"),
        path.with_name(f"{path.name}.before-{stamp}"),
    )
    if path.is_block_device() and not discard_present:
        raise RefusedError(
            f"cannot roll {path} back: a device has no room to keep its present state beside",
            hint=f"make a restore point with `donjon backup {vm.name}` first, then say --discard-present",
        )
    return step


def _format_of(present: Disk, path: Path) -> str:
    """The format the VM's definition expects there."""
    found = present.image_format or (probe(path).format if path.exists() else "raw")
    if found not in _WRITABLE:
        raise RefusedError(
            f"cannot roll {path} back: it is {found}, and donjon writes raw and qcow2",
            hint="restore the VM under another name",
        )
    return found


def _swap(ledger: Ledger, steps: list[_Step]) -> None:
    """Put all restored images in place, or none: one debt covers them, and one stroke forgives it."""
    try:
        swaps = json.dumps([asdict(_Swap(str(step.path), str(step.kept), identity(step.beside))) for step in steps])
        with ledger.owing(SWAP_DEBT, swaps=swaps) as debt:
            for step in steps:
                _swap_one(step)
            for directory in {step.path.parent for step in steps}:
                _sync(directory)
            trace.reached("roll-back.swapped")
            debt.forgive()
    except OSError as error:
        raise HostError(f"cannot put the restored images in place: {error.strerror}: {error.filename}") from error


def _swap_one(step: _Step) -> None:
    if step.path.exists():
        present = step.path.stat()
        step.beside.chmod(stat.S_IMODE(present.st_mode))
        if os.geteuid() == 0:
            os.chown(step.beside, present.st_uid, present.st_gid)
        step.path.rename(step.kept)
    trace.reached("roll-back.half-swapped")
    step.beside.rename(step.path)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _finish(step: _Step, discard_present: bool) -> RolledBack:
    if discard_present:
        step.kept.unlink(missing_ok=True)
    kept = step.kept if step.kept.exists() else None
    return RolledBack(step.point.target, str(step.path), str(kept) if kept else None)
