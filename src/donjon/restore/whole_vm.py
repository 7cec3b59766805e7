# SPDX-License-Identifier: Apache-2.0
"""A whole VM out of the repository: into new files, and if wanted defined in a hypervisor, as itself or as another.

Nothing that exists is overwritten, and what was restored is removed again unless all of it was.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from donjon import trace
from donjon.errors import ConfigError, HostError, RefusedError
from donjon.hypervisors.definition import parse_definition
from donjon.hypervisors.hypervisor import Hypervisor
from donjon.hypervisors.identity import rewrite_definition
from donjon.images.new_file import new_file
from donjon.model.progress import Progress
from donjon.model.restore_point import DiskPoint, RestorePoint, SideFilePoint
from donjon.model.vm import Vm
from donjon.repository.repository import Repository
from donjon.restore.disk import FILE_DEBT, restore_disk
from donjon.restore.side_files import restore_side_file
from donjon.restore_points import load_definition, load_manifest, safe_name
from donjon.state.ledger import Debt, Ledger

_WRITABLE = ("raw", "qcow2")


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """What is restored where.

    `directory` takes the new files. `image_format` is raw or qcow2, None: as it was, where that can be written.
    `name` gives the VM another name, and with it another identity. `devices` sends disks, by target, to block devices.
    """

    directory: Path
    image_format: str | None = None
    name: str | None = None
    new_identity: bool = False
    devices: tuple[tuple[str, Path], ...] = ()


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
    disks = [_place(disk, name, options) for disk in manifest.disks]
    plan = _Plan(definition, name, options, disks, manifest.side_files) if definition is not None else None
    if hypervisor is not None and plan is not None:
        _refuse_existing(hypervisor, plan.vm)
    with ExitStack() as held:
        made = _Made(ledger, held)
        made.directory(options.directory)
        for disk, place in zip(manifest.disks, disks, strict=True):
            _restore_disk(repository, point, disk, place, made, progress)
        if plan is not None:
            for file in manifest.side_files:
                made.owe(plan.side_paths[file.role])
                restore_side_file(repository, point, file.path, plan.side_paths[file.role])
            made.owe(plan.path)
            _write_definition(plan)
        if hypervisor is not None and plan is not None:
            trace.reached("restore.before-define")
            hypervisor.define(plan.definition)
        made.keep()
    return RestoreReport(
        restore_point=point,
        vm_name=name,
        vm_uuid=plan.vm.uuid if plan else point.vm_uuid,
        disks=tuple(disks),
        definition=str(plan.path) if plan else None,
        defined=hypervisor is not None,
        notes=plan.notes if plan else (),
    )


class _Made:
    """What was made and must go again, unless all goes well."""

    def __init__(self, ledger: Ledger, held: ExitStack) -> None:
        self._ledger = ledger
        self._held = held
        self._debts: list[Debt] = []

    def directory(self, path: Path) -> None:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HostError(f"cannot make directory {path}: {error.strerror}") from error

    def owe(self, path: Path) -> None:
        """Before `path` is made. What exists already is not ours to remove."""
        if path.exists():
            raise RefusedError(
                f"cannot restore {path}: it exists", hint="choose another directory, or another name with --name"
            )
        self._debts.append(self._held.enter_context(self._ledger.owing(FILE_DEBT, path=str(path))))

    def keep(self) -> None:
        for debt in self._debts:
            debt.forgive()


class _Plan:
    """The definition as it will be, and where the files go that it names."""

    def __init__(
        self,
        definition: str,
        name: str,
        options: RestoreOptions,
        disks: list[RestoredDisk],
        side_files: tuple[SideFilePoint, ...],
    ) -> None:
        rewritten = rewrite_definition(
            definition,
            name=options.name,
            new_identity=options.new_identity or options.name is not None,
            disks={disk.target: (disk.path, disk.image_format) for disk in disks},
            side_files={},
        )
        self.vm = parse_definition(rewritten.definition, host="")
        self.side_paths = {
            file.role: self._side_path(file, options.directory / f"{safe_name(name)}-{file.role}")
            for file in side_files
        }
        final = rewrite_definition(
            rewritten.definition,
            new_identity=False,
            disks={disk.target: (disk.path, disk.image_format) for disk in disks},
            side_files={role: str(path) for role, path in self.side_paths.items()},
        )
        self.definition = final.definition
        self.path = options.directory / f"{safe_name(name)}.xml"
        self.notes = rewritten.notes

    def _side_path(self, file: SideFilePoint, otherwise: Path) -> Path:
        """TPM state lies where the VM's UUID says, unless the definition names a place; all else where we say."""
        places = [Path(side.path) for side in self.vm.side_files if side.role == file.role == "tpm"]
        return next((place for place in places if self.vm.uuid in place.parts), otherwise)


def _place(disk: DiskPoint, name: str, options: RestoreOptions) -> RestoredDisk:
    image_format = options.image_format or (disk.image_format if disk.image_format in _WRITABLE else "qcow2")
    if device := dict(options.devices).get(disk.target):
        return RestoredDisk(disk.target, str(device), "raw", disk.size)
    file = f"{safe_name(name)}-{safe_name(disk.target)}.{image_format}"
    return RestoredDisk(disk.target, str(options.directory.absolute() / file), image_format, disk.size)


def _restore_disk(
    repository: Repository, point: RestorePoint, disk: DiskPoint, place: RestoredDisk, made: _Made, progress: Progress
) -> None:
    path = Path(place.path)
    if not path.is_block_device():
        made.owe(path)
    progress.begin(disk.target, disk.size)
    restore_disk(repository, point, disk, path, image_format=place.image_format, progress=progress.advance)


def _refuse_existing(hypervisor: Hypervisor, vm: Vm) -> None:
    for other in hypervisor.list_vms():
        if other.name == vm.name or other.uuid == vm.uuid:
            raise RefusedError(
                f"cannot restore {vm.name}: {hypervisor.uri} has a VM of that name or UUID",
                hint="--name NEW restores it as another VM, --in-place rolls the present one back",
            )


def _write_definition(plan: _Plan) -> None:
    try:
        with new_file(plan.path, exist_ok=False) as unfinished:
            unfinished.write_text(plan.definition, encoding="utf-8")
    except OSError as error:
        raise HostError(f"cannot write {plan.path}: {error.strerror}") from error
