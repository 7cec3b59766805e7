# SPDX-License-Identifier: Apache-2.0
"""Restore of a VM or a disk."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from donjon.cli.commands.points import Spec, find_point
from donjon.cli.commands.restore_result import Restored, describe_restore, describe_roll_back
from donjon.cli.options import COMMON, Common, Connect, Given
from donjon.cli.result import describe_point
from donjon.cli.session import Session
from donjon.errors import ConfigError, RefusedError
from donjon.hypervisors.definition import SYSTEM_TPM_ROOT
from donjon.images.locks import in_use
from donjon.model.restore_point import DiskPoint, RestorePoint
from donjon.repository.repository import Repository
from donjon.restore.disk import FILE_DEBT, find_disk, restore_disk, restore_disk_to_stdout
from donjon.restore.in_place import roll_back
from donjon.restore.whole_vm import RestoredDisk, RestoreOptions, restore_vm
from donjon.restore_points import load_manifest
from donjon.state.ledger import Ledger

Format = Literal["raw", "qcow2"]


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where to."""

    disk: Annotated[tuple[str, ...], Parameter(metavar="TARGET")] = ()
    """Which disk: one for --to; with --in-place may be repeated."""

    to: Annotated[str | None, Parameter(metavar="FILE|DEVICE|-", allow_leading_hyphen=True)] = None
    """Restore one disk to a file, a block device or standard output."""

    to_dir: Annotated[Path | None, Parameter(metavar="DIR")] = None
    """Restore everything into a directory, without telling libvirt."""

    directory: Annotated[Path | None, Parameter(metavar="DIR")] = None
    """Restore the VM, its files into this directory, and define it."""

    pool: Annotated[str | None, Parameter(metavar="POOL")] = None
    """The same, into the directory of a storage pool."""

    in_place: bool = False
    """Put the disks of a VM that exists back to what they were; the present ones are kept beside."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How."""

    force: bool = False
    """With --to: replace the file that is there, or overwrite the device."""

    discard_present: bool = False
    """With --in-place: do not keep the present disks."""

    name: Annotated[str | None, Parameter(metavar="NEW")] = None
    """Give the VM another name, and with it a new identity."""

    new_identity: bool = False
    """Give the VM a new UUID and new MAC addresses."""

    format: Annotated[Format | None, Parameter(metavar="raw|qcow2")] = None
    """Format of the images (else as it was; with --to, raw unless FILE ends in .qcow2)."""

    connect: Connect = None

    start: bool = False
    """Start the VM when it is restored."""


def restore(
    point: Spec,
    /,
    *,
    target: Target = Target(),
    manner: Manner = Manner(),
    common: Common = COMMON,
    program: Given,
) -> Restored | None:
    """Bring a VM or a disk back.

    Every block is proven before it is written. Files come into being whole or not at all, and nothing that exists is
    replaced unless an option says so.

    Examples:
        donjon restore web01 --directory /var/lib/libvirt/images --start

        donjon restore web01@2026-11-22 --pool default --name web01-old

        donjon restore web01 --in-place

        donjon restore web01@3f2a9c11 --to-dir /tmp/web01

        donjon restore web01 --disk vda --to /tmp/vda.qcow2

        donjon restore web01 --disk vda --to - | ssh kvm2 'dd of=/dev/vg/web01 bs=4M'
    """
    _check(target, manner, as_json=common.json)
    session = Session(common, program)
    repository = session.open_repository()
    found = find_point(session.restore_points(repository), point)
    if target.to is not None:
        return _restore_disk(session, repository, found, target, manner)
    if target.in_place:
        return _roll_back(session, repository, found, target, manner)
    return _restore_vm(session, repository, found, target, manner)


def _check(target: Target, manner: Manner, *, as_json: bool) -> None:
    places = [place for place in (target.to, target.to_dir, target.directory, target.pool) if place is not None]
    if len(places) + target.in_place != 1:
        raise ConfigError(
            "cannot restore: say where to, once",
            hint="--directory or --pool restores and defines the VM, --to-dir its files only, --in-place rolls it"
            " back, --disk vda --to FILE restores a disk",
        )
    for given, fits, option, place in (
        (target.disk, target.to or target.in_place, "--disk", "--to or --in-place"),
        (manner.force, target.to, "--force", "--to"),
        (manner.discard_present, target.in_place, "--discard-present", "--in-place"),
        (manner.name or manner.new_identity, target.to_dir or target.directory or target.pool, "--name", "a whole VM"),
        (manner.format, not target.in_place, "--format", "new images"),
        (manner.start, not (target.to or target.to_dir), "--start", "a VM that libvirt knows"),
    ):
        if given and not fits:
            raise ConfigError(f"cannot restore: {option} only goes with {place}")
    if as_json and target.to == "-":
        raise ConfigError("cannot write both a disk and JSON to standard output")


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
    _refuse_overwriting(path, force=manner.force)
    with ExitStack() as held:
        ledger = held.enter_context(session.ledger())
        progress = held.enter_context(session.progress())
        if not path.exists():
            held.enter_context(_removed_on_failure(ledger, path))
        progress.begin(disk.target, disk.size)
        restore_disk(
            repository,
            point,
            disk,
            path,
            image_format=image_format,
            exist_ok=manner.force,
            progress=progress.advance,
        )
    done = RestoredDisk(disk.target, str(path), image_format, disk.size)
    return Restored(describe_point(point), point.vm_name, point.vm_uuid, (done,))


@contextmanager
def _removed_on_failure(ledger: Ledger, path: Path) -> Iterator[None]:
    """The file that comes into being in the block goes again if it fails; unless somebody else has made it."""
    with ledger.owing(FILE_DEBT, path=str(path.absolute())) as debt:
        try:
            yield
        except RefusedError:
            debt.forgive()
            raise
        debt.forgive()


def _to_stdout(session: Session, repository: Repository, point: RestorePoint, disk: DiskPoint) -> None:
    if sys.stdout.isatty():
        raise RefusedError("cannot write a disk to a terminal", hint="send it on with | or >")
    with session.progress() as progress:
        progress.begin(disk.target, disk.size)
        restore_disk_to_stdout(repository, point, disk, progress=progress.advance)


def _refuse_overwriting(path: Path, *, force: bool) -> None:
    if not path.exists():
        return
    if not force:
        what = "its content would be lost" if path.is_block_device() else "it exists"
        raise RefusedError(f"cannot restore to {path}: {what}", hint="say --force, or choose another place")
    if path.is_file() and in_use(path):
        raise RefusedError(f"cannot restore to {path}: another process has it open for writing")


def _restore_vm(
    session: Session, repository: Repository, point: RestorePoint, target: Target, manner: Manner
) -> Restored:
    with ExitStack() as held:
        ledger = held.enter_context(session.ledger())
        hypervisor = None if target.to_dir else held.enter_context(session.connect(manner.connect))
        directory = target.to_dir or target.directory
        if directory is None:
            assert hypervisor is not None
            assert target.pool is not None
            directory = hypervisor.pool_path(target.pool)
        options = RestoreOptions(
            directory=directory.absolute(),
            tpm_root=hypervisor.tpm_root if hypervisor else Path(SYSTEM_TPM_ROOT),
            image_format=manner.format,
            name=manner.name,
            new_identity=manner.new_identity,
        )
        with session.progress() as progress:
            report = restore_vm(repository, point, ledger, options, progress, hypervisor=hypervisor)
        if manner.start and hypervisor is not None:
            hypervisor.start(report.vm_uuid)
        return describe_restore(report, started=manner.start)


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
        if manner.start:
            hypervisor.start(vm.uuid)
        return describe_roll_back(report, vm.uuid, started=manner.start)
