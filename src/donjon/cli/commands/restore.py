# SPDX-License-Identifier: Apache-2.0
"""Restore of a VM or a disk."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path

from donjon.cli.commands.instant import begin_instant, continue_instant
from donjon.cli.commands.points import Spec, find_point
from donjon.cli.commands.restore_options import (
    INSTANT,
    MANNER,
    TARGET,
    Instant,
    Manner,
    Target,
    check_instant,
    check_options,
    find_directory,
)
from donjon.cli.commands.restore_result import Restored, Start, describe_restore, describe_roll_back
from donjon.cli.options import COMMON, Common, Given
from donjon.cli.result import describe_failure, describe_point
from donjon.cli.session import Session
from donjon.errors import ConfigError, DonjonError, RefusedError
from donjon.hypervisors.definition import SYSTEM_TPM_ROOT
from donjon.hypervisors.hypervisor import Hypervisor
from donjon.images.locks import in_use
from donjon.model.restore_point import DiskPoint, RestorePoint
from donjon.repository.repository import Repository
from donjon.restore.disk import find_disk, prove_disk, refuse_device, restore_disk, restore_disk_to_stdout
from donjon.restore.in_place import roll_back
from donjon.restore.made import made
from donjon.restore.whole_vm import RestoredDisk, RestoreOptions, restore_vm
from donjon.restore_points import load_manifest


def restore(
    point: Spec,
    /,
    *,
    target: Target = TARGET,
    manner: Manner = MANNER,
    instant: Instant = INSTANT,
    common: Common = COMMON,
    program: Given,
) -> Restored | None:
    """Bring a VM or a disk back.

    Every block is proven before it is written. Files come into being whole or not at all, and nothing that exists is
    replaced unless an option says so.

    With --in-place only disks go back: the definition, the firmware variables (NVRAM) and the TPM's state stay as they
    are.

    With --instant the VM runs within seconds: it reads its disks from the repository, and writes to its directory.
    --finish brings the rest there while it runs. `donjon instant` lists such VMs.

    Examples:
        donjon restore web01 --directory /var/lib/libvirt/images --start

        donjon restore web01@2026-11-22 --pool default --name web01-old

        donjon restore web01 --in-place

        donjon restore web01@3f2a9c11 --to-dir /tmp/web01

        donjon restore web01 --disk vda --to /tmp/vda.qcow2

        donjon restore web01 --directory /srv/vms --disk-to vda=/dev/vg0/web01 --force

        donjon restore web01 --instant --directory /var/lib/libvirt/images --name web01-now

        donjon restore web01-now --finish

        donjon restore web01 --disk vda --to - | ssh kvm2 'dd of=/dev/vg/web01 bs=4M'
    """
    check_instant(instant, target, manner)
    session = Session(common, program)
    if instant.continues:
        return continue_instant(session, point, instant, no_lock=manner.no_lock)
    check_options(target, manner, as_json=common.json)
    with session.reading(no_lock=manner.no_lock) as repository:
        found = find_point(session.restore_points(repository), point)
        if instant.instant:
            return begin_instant(session, repository, found, target, manner)
        if target.to is not None:
            return _restore_disk(session, repository, found, target, manner)
        if target.in_place:
            return _roll_back(session, repository, found, target, manner)
        return _restore_vm(session, repository, found, target, manner)


def _restore_disk(
    session: Session, repository: Repository, point: RestorePoint, target: Target, manner: Manner
) -> Restored | None:
    manifest = load_manifest(repository, point)
    if len(target.disk) > 1 or (not target.disk and len(manifest.disks) != 1):
        known = ", ".join(disk.target for disk in manifest.disks)
        raise ConfigError("cannot tell which disk is meant: --to takes one", hint=f"say --disk; there are: {known}")
    disk = find_disk(manifest, target.disk[0]) if target.disk else manifest.disks[0]
    assert target.to is not None
    if target.to == "-":
        _to_stdout(session, repository, point, disk)
        return None
    path = Path(target.to)
    image_format = manner.format or ("qcow2" if path.suffix == ".qcow2" else "raw")
    _refuse_overwriting(path, disk, force=manner.force)
    if path.is_block_device():
        prove_disk(repository, point, disk)
        refuse_device(path, disk)
    with session.ledger() as ledger, session.progress() as progress, made(ledger) as new:
        progress.begin(disk.target, disk.size)
        restore_disk(
            repository,
            point,
            disk,
            path,
            image_format=image_format,
            exist_ok=manner.force,
            announce=new.replacing(Path(os.path.realpath(path))),
            progress=progress.advance,
        )
    done = RestoredDisk(disk.target, str(path), image_format, disk.size)
    return Restored(describe_point(point), point.vm_name, point.vm_uuid, (done,))


def _to_stdout(session: Session, repository: Repository, point: RestorePoint, disk: DiskPoint) -> None:
    if sys.stdout.isatty():
        raise RefusedError("cannot write a disk to a terminal", hint="send it on with | or >")
    with session.progress() as progress:
        progress.begin(disk.target, disk.size)
        restore_disk_to_stdout(repository, point, disk, progress=progress.advance)


def _refuse_overwriting(path: Path, disk: DiskPoint, *, force: bool) -> None:
    if not path.exists():
        return
    if path.is_dir():
        raise RefusedError(
            f"cannot restore to {path}: it is a directory",
            hint="name a file in it, or restore the whole VM with --to-dir",
        )
    is_device = path.is_block_device()
    if not force:
        what = "its content would be lost" if is_device else "it exists"
        raise RefusedError(f"cannot restore to {path}: {what}", hint="say --force, or choose another place")
    if is_device:
        refuse_device(path, disk)
    elif path.is_file() and in_use(path):
        raise RefusedError(f"cannot restore to {path}: another process has it open for writing")


def _restore_vm(
    session: Session, repository: Repository, point: RestorePoint, target: Target, manner: Manner
) -> Restored:
    with ExitStack() as held:
        ledger = held.enter_context(session.ledger())
        hypervisor = None if target.to_dir else held.enter_context(session.connect(manner.connect))
        directory = target.to_dir if hypervisor is None else find_directory(target, hypervisor)
        assert directory is not None
        options = RestoreOptions(
            directory=directory.absolute(),
            tpm_root=hypervisor.tpm_root if hypervisor else Path(SYSTEM_TPM_ROOT),
            image_format=manner.format,
            name=manner.name,
            new_identity=manner.new_identity,
            devices=target.devices(),
        )
        with session.progress() as progress:
            report = restore_vm(repository, point, ledger, options, progress, hypervisor=hypervisor)
        start = _start(hypervisor, report.vm_uuid) if manner.start and hypervisor is not None else Start()
        return describe_restore(report, start)


def _roll_back(
    session: Session, repository: Repository, point: RestorePoint, target: Target, manner: Manner
) -> Restored:
    with session.ledger() as ledger, session.connect(manner.connect) as hypervisor:
        vm = hypervisor.find_vm(point.vm_uuid)
        with session.progress() as progress:
            report = roll_back(
                repository,
                point,
                ledger,
                vm,
                progress,
                hypervisor=hypervisor,
                targets=target.disk,
                discard_present=manner.discard_present,
            )
        return describe_roll_back(report, vm.uuid, _start(hypervisor, vm.uuid) if manner.start else Start())


def _start(hypervisor: Hypervisor, uuid: str) -> Start:
    """Start the VM. If that fails, it is restored nevertheless, and everything about it is told."""
    try:
        hypervisor.start(uuid)
    except DonjonError as error:
        return Start(failed=describe_failure(error))
    return Start(done=True)
