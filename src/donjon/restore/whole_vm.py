# SPDX-License-Identifier: Apache-2.0
"""A whole VM out of the repository: into new files, and if wanted defined in a hypervisor, as itself or as another.

Nothing that exists is overwritten, and what was restored is removed again unless all of it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from donjon import trace
from donjon.errors import ConfigError, DonjonError, HostError, RefusedError
from donjon.hypervisors.definition import SYSTEM_TPM_ROOT
from donjon.hypervisors.hypervisor import Hypervisor
from donjon.images.new_file import new_file
from donjon.model.progress import Progress
from donjon.model.restore_point import DiskPoint, Manifest, RestorePoint
from donjon.model.vm import Vm
from donjon.repository.repository import Repository
from donjon.restore.disk import FILE_DEBT, find_disk, remove_restored, restore_disk
from donjon.restore.plan import Plan, file_name, plan_definition
from donjon.restore.side_files import restore_side_file
from donjon.restore_points import load_definition, load_manifest, safe_name
from donjon.state.ledger import Debt, Ledger

_WRITABLE = ("raw", "qcow2")


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """What is restored where.

    `directory` takes the new files. `image_format` is raw or qcow2, None: as it was, where that can be written.
    `name` gives the VM another name, and with it another identity. `devices` sends disks, by target, to block devices.
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

    Raises:
        RefusedError: a file or a VM of that name or UUID exists.
        ConfigError: there is no definition to define.
        IntegrityError: something is damaged in the repository.
        HostError: something cannot be written or defined. Whatever is raised, nothing new is left.
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
    disks = _place_disks(manifest, name, directory, options)
    plan = _plan(definition, name, options, disks, manifest, hypervisor) if definition is not None else None
    vm_uuid = plan.vm.uuid if plan else point.vm_uuid
    with ExitStack() as held:
        made = _Made(ledger, held)
        made.directory(directory)
        for disk, place in zip(manifest.disks, disks, strict=True):
            _restore_disk(repository, point, disk, place, made, progress)
        if plan is not None:
            _restore_side_files(repository, point, manifest, plan, made)
        trace.reached("restore.before-define")
        made.keep()
        if hypervisor is not None and plan is not None:
            vm_uuid = _define(hypervisor, plan, made)
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
        _refuse_existing(hypervisor, plan.vm)
    return plan


def _restore_side_files(
    repository: Repository, point: RestorePoint, manifest: Manifest, plan: Plan, made: _Made
) -> None:
    for file in manifest.side_files:
        path = plan.side_paths[file.role]
        made.directory(path.parent)
        with made.making(path):
            restore_side_file(repository, point, file.path, path)
    with made.making(plan.path), new_file(plan.path, exist_ok=False) as unfinished:
        unfinished.write_text(plan.definition, encoding="utf-8")


def _define(hypervisor: Hypervisor, plan: Plan, made: _Made) -> str:
    """Define the VM; its UUID. If that fails the files go, unless it may have been defined: a VM keeps its disks."""
    try:
        return hypervisor.define(plan.definition).uuid
    except BaseException as error:
        if _may_exist(hypervisor, plan.vm):
            error.add_note(f"the restored files were kept: {plan.vm.name} may have been defined nevertheless")
        else:
            made.remove()
        raise


def _may_exist(hypervisor: Hypervisor, vm: Vm) -> bool:
    try:
        return any(other.uuid == vm.uuid for other in hypervisor.list_vms())
    except DonjonError:
        return True


class _Made:
    """What was made and must go again, unless all goes well."""

    def __init__(self, ledger: Ledger, held: ExitStack) -> None:
        self._ledger = ledger
        self._held = held
        self._debts: list[Debt] = []

    def directory(self, path: Path) -> None:
        """Make a directory, and those above that are missing."""
        missing = [part for part in (path, *path.parents) if not part.exists()]
        for part in reversed(missing):
            self._owe(path=str(part), only_if_empty=True)
            try:
                part.mkdir(exist_ok=True)
            except OSError as error:
                raise HostError(f"cannot make directory {part}: {error.strerror}") from error

    @contextmanager
    def making(self, path: Path) -> Iterator[None]:
        """`path` comes into being in the block. What exists already, or is made by others meanwhile, is not ours."""
        if path.exists() or path.is_symlink():
            raise RefusedError(
                f"cannot restore {path}: it exists", hint="choose another directory, or another name with --name"
            )
        debt = self._owe(path=str(path))
        try:
            yield
        except RefusedError:
            debt.forgive()
            raise

    def keep(self) -> None:
        """All went well."""
        for debt in self._debts:
            debt.forgive()

    def remove(self) -> None:
        """It did not, after all."""
        for debt in reversed(self._debts):
            remove_restored(**debt.args)  # type: ignore[arg-type]

    def _owe(self, **args: str | bool) -> Debt:
        self._debts.append(self._held.enter_context(self._ledger.owing(FILE_DEBT, **args)))
        return self._debts[-1]


def _place_disks(manifest: Manifest, name: str, directory: Path, options: RestoreOptions) -> list[RestoredDisk]:
    devices = dict(options.devices)
    for target, device in devices.items():
        find_disk(manifest, target)
        if not device.is_block_device():
            raise ConfigError(f"cannot restore disk {target} to {device}: it is no block device")
    return [_place(disk, name, directory, options.image_format, devices.get(disk.target)) for disk in manifest.disks]


def _place(disk: DiskPoint, name: str, directory: Path, wanted: str | None, device: Path | None) -> RestoredDisk:
    if device is not None:
        return RestoredDisk(disk.target, str(device), "raw", disk.size)
    image_format = wanted or (disk.image_format if disk.image_format in _WRITABLE else "qcow2")
    path = directory / file_name(name, f"-{safe_name(disk.target)}.{image_format}")
    return RestoredDisk(disk.target, str(path), image_format, disk.size)


def _restore_disk(
    repository: Repository, point: RestorePoint, disk: DiskPoint, place: RestoredDisk, made: _Made, progress: Progress
) -> None:
    path = Path(place.path)
    progress.begin(disk.target, disk.size)
    with nullcontext() if path.is_block_device() else made.making(path):
        restore_disk(repository, point, disk, path, image_format=place.image_format, progress=progress.advance)


def _refuse_existing(hypervisor: Hypervisor, vm: Vm) -> None:
    for other in hypervisor.list_vms():
        if other.name == vm.name or other.uuid == vm.uuid:
            raise RefusedError(
                f"cannot restore {vm.name}: {hypervisor.uri} has a VM of that name or UUID",
                hint="--name NEW restores it as another VM, --in-place rolls the present one back",
            )
