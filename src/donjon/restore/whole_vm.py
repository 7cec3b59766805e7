# SPDX-License-Identifier: Apache-2.0
"""A whole VM out of the repository: into new files, and if wanted defined in a hypervisor, as itself or as another.

Nothing that exists is overwritten but devices the operator names, and what was restored is removed again unless all
of it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from donjon import trace
from donjon.errors import ConfigError, DonjonError, RefusedError
from donjon.hypervisors.definition import SYSTEM_TPM_ROOT
from donjon.hypervisors.hypervisor import Hypervisor
from donjon.images.new_file import new_file
from donjon.model.progress import Progress
from donjon.model.restore_point import DiskPoint, Manifest, RestorePoint
from donjon.model.vm import Vm
from donjon.repository.repository import Repository
from donjon.restore.disk import find_disk, prove_disk, refuse_device, restore_disk
from donjon.restore.made import Made, made
from donjon.restore.plan import Plan, file_name, plan_definition
from donjon.restore.side_files import restore_side_file
from donjon.restore_points import load_definition, load_manifest, safe_name
from donjon.state.ledger import Ledger

_WRITABLE = ("raw", "qcow2")


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """What is restored where.

    `directory` takes the new files. `image_format` is raw or qcow2, None: as it was, where that can be written.
    `name` gives the VM another name, and with it another identity. `devices` sends disks, by target, to block devices,
    whose content is lost.
    `tpm_root` is where the hypervisor keeps the state of TPMs, by the VMs' UUIDs.
    """

    directory: Path
    image_format: str | None = None
    name: str | None = None
    new_identity: bool = False
    devices: tuple[tuple[str, Path], ...] = ()
    tpm_root: Path = Path(SYSTEM_TPM_ROOT)


@dataclass(frozen=True, slots=True)
class RestoredDisk:
    """Where a disk is now; size in bytes."""

    target: str
    path: str
    image_format: str
    size: int


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What was restored. `definition` is the path of the rewritten definition, None if the restore point has none."""

    restore_point: RestorePoint
    vm_name: str
    vm_uuid: str
    disks: tuple[RestoredDisk, ...]
    definition: str | None
    defined: bool
    notes: tuple[str, ...]


def restore_vm(
    repository: Repository,
    point: RestorePoint,
    ledger: Ledger,
    options: RestoreOptions,
    progress: Progress,
    *,
    hypervisor: Hypervisor | None,
) -> RestoreReport:
    """Restore a VM's disks and all that belongs to it; define it if a hypervisor is given.

    Devices come last, when all else is there and all that goes there is proven.

    Raises:
        RefusedError: a file or a VM of that name or UUID exists, or a device is in use or too small.
        ConfigError: there is no definition to define, or a device is none.
        IntegrityError: something is damaged in the repository.
        HostError: something cannot be written or defined. Whatever is raised, nothing new is left; a device may be
            half written.
    """
    manifest = load_manifest(repository, point)
    definition = load_definition(repository, point)
    if hypervisor is not None and definition is None:
        raise ConfigError(
            f"cannot define {point.vm_name}: its restore point has disks, but no definition",
            hint="restore the disks with --to-dir, and define the VM by hand",
        )
    name = options.name or point.vm_name
    directory = options.directory.absolute()
    devices = _check_devices(manifest, options)
    disks = [_place(disk, name, directory, options.image_format, devices) for disk in manifest.disks]
    plan = _plan(definition, name, options, disks, manifest, hypervisor) if definition is not None else None
    vm_uuid = plan.vm.uuid if plan else point.vm_uuid
    with made(ledger) as new:
        new.directory(directory)
        places = {disk.target: disk for disk in disks}
        for disk in manifest.disks:
            if disk.target not in devices:
                _restore_to_file(repository, point, disk, places[disk.target], new, progress)
        if plan is not None:
            restore_side_files(repository, point, manifest, plan, new)
        on_devices = {devices[disk.target]: disk for disk in manifest.disks if disk.target in devices}
        _overwrite_devices(repository, point, on_devices, progress)
        trace.reached("restore.before-define")
        new.keep()
        if hypervisor is not None and plan is not None:
            vm_uuid = _define(hypervisor, plan, new)
    return RestoreReport(
        restore_point=point,
        vm_name=name,
        vm_uuid=vm_uuid,
        disks=tuple(disks),
        definition=str(plan.path) if plan else None,
        defined=hypervisor is not None,
        notes=plan.notes if plan else (),
    )


def _plan(
    definition: str,
    name: str,
    options: RestoreOptions,
    disks: list[RestoredDisk],
    manifest: Manifest,
    hypervisor: Hypervisor | None,
) -> Plan:
    plan = plan_definition(
        definition,
        directory=options.directory.absolute(),
        name=name,
        new_name=options.name,
        new_identity=options.new_identity or options.name is not None,
        disks={disk.target: (disk.path, disk.image_format) for disk in disks},
        side_files=manifest.side_files,
        tpm_root=None if hypervisor is None else options.tpm_root,
    )
    if hypervisor is not None:
        refuse_existing(hypervisor, plan.vm)
    return plan


def restore_side_files(repository: Repository, point: RestorePoint, manifest: Manifest, plan: Plan, new: Made) -> None:
    """Restore all that belongs to a VM beside its disks, and its definition. Raises as `restore_vm`."""
    for file in manifest.side_files:
        path = plan.side_paths[file.role]
        new.directory(path.parent)
        restore_side_file(repository, point, file.path, path, announce=new.making(path))
    with new_file(plan.path, exist_ok=False, announce=new.making(plan.path)) as unfinished:
        unfinished.write_text(plan.definition, encoding="utf-8")


def _define(hypervisor: Hypervisor, plan: Plan, new: Made) -> str:
    """Define the VM; its UUID. If that fails the files go, unless it may have been defined: a VM keeps its disks."""
    try:
        return hypervisor.define(plan.definition).uuid
    except BaseException as error:
        if _may_exist(hypervisor, plan.vm):
            error.add_note(f"the restored files were kept: {plan.vm.name} may have been defined nevertheless")
        else:
            for note in new.remove():
                error.add_note(note)
        raise


def _may_exist(hypervisor: Hypervisor, vm: Vm) -> bool:
    try:
        return any(other.uuid == vm.uuid for other in hypervisor.list_vms())
    except DonjonError:
        return True


def _check_devices(manifest: Manifest, options: RestoreOptions) -> dict[str, Path]:
    """The devices by target; sure to be there, large enough, and in use by nobody."""
    devices = dict(options.devices)
    for target, device in devices.items():
        disk = find_disk(manifest, target)
        if not device.is_block_device():
            raise ConfigError(f"cannot restore disk {target} to {device}: it is no block device")
        refuse_device(device, disk)
    if len({device.resolve() for device in devices.values()}) < len(options.devices):
        raise ConfigError("cannot restore two disks to one device, or one disk to two")
    return devices


def _place(
    disk: DiskPoint, name: str, directory: Path, wanted: str | None, devices: Mapping[str, Path]
) -> RestoredDisk:
    if disk.target in devices:
        return RestoredDisk(disk.target, _device_name(devices[disk.target]), "raw", disk.size)
    image_format = wanted or (disk.image_format if disk.image_format in _WRITABLE else "qcow2")
    path = directory / file_name(name, f"-{safe_name(disk.target)}.{image_format}")
    return RestoredDisk(disk.target, str(path), image_format, disk.size)


def _device_name(device: Path) -> str:
    """As a definition needs it: below /dev. A name given there stays, for the numbered ones behind it may change."""
    path = device.absolute()
    return str(path if path.is_relative_to("/dev") else path.resolve())


def _restore_to_file(
    repository: Repository, point: RestorePoint, disk: DiskPoint, place: RestoredDisk, new: Made, progress: Progress
) -> None:
    progress.begin(disk.target, disk.size)
    path = Path(place.path)
    announce = new.making(path)
    restore_disk(
        repository,
        point,
        disk,
        path,
        image_format=place.image_format,
        announce=announce,
        progress=progress.advance,
    )


def _overwrite_devices(
    repository: Repository, point: RestorePoint, disks: Mapping[Path, DiskPoint], progress: Progress
) -> None:
    """What a device held is lost: so all that is to be written is proven before."""
    for disk in disks.values():
        prove_disk(repository, point, disk)
    for device, disk in disks.items():
        refuse_device(device, disk)
    for device, disk in disks.items():
        progress.begin(disk.target, disk.size)
        restore_disk(repository, point, disk, device, image_format="raw", progress=progress.advance)


def refuse_existing(hypervisor: Hypervisor, vm: Vm) -> None:
    """Do nothing if there is no VM of that name or UUID. Raises RefusedError."""
    for other in hypervisor.list_vms():
        if other.name == vm.name or other.uuid == vm.uuid:
            raise RefusedError(
                f"cannot restore {vm.name}: {hypervisor.uri} has a VM of that name or UUID",
                hint="--name NEW restores it as another VM, --in-place rolls the present one back",
            )
