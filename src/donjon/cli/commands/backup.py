# SPDX-License-Identifier: Apache-2.0
"""Backup of one VM or many."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

from cyclopts import Parameter

from donjon.backup.backup import BackupReport, back_up
from donjon.backup.methods.offline import Offline, OfflineOptions
from donjon.backup.standstill import WhenRunning
from donjon.cli.commands.backup_result import BackedUp, FailedVm, describe_backup
from donjon.cli.disks_alone import vm_from_files
from donjon.cli.options import COMMON, Common, Connect, Given
from donjon.cli.result import describe_failure
from donjon.cli.session import Session
from donjon.config import PolicySettings, RepositorySettings
from donjon.errors import ConfigError, DonjonError
from donjon.hypervisors.hypervisor import Hypervisor
from donjon.hypervisors.selection import matches
from donjon.model.vm import Vm
from donjon.repository.writer import WriteOptions

_MIB = 1 << 20


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which VMs."""

    all: bool = False
    """Every VM of the host."""

    label: Annotated[tuple[str, ...], Parameter(metavar="KEY[=VALUE]")] = ()
    """VMs with this label; may be repeated."""

    policy: Annotated[str | None, Parameter(metavar="NAME")] = None
    """What the configuration says under [policy.NAME]."""

    connect: Connect = None

    disk: Annotated[tuple[str, ...], Parameter(metavar="TARGET=PATH[,format=F]")] = ()
    """Without libvirt: a disk of the VM; may be repeated."""

    definition: Annotated[Path | None, Parameter(metavar="FILE")] = None
    """Without libvirt: the VM's definition (libvirt's XML); --disk overrides its paths."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """What may be done to them, and how it is stored."""

    shutdown: bool = False
    """Shut a running guest down for the time it takes, and start it again."""

    suspend: bool = False
    """Suspend a running guest meanwhile; its disks are as after a power cut."""

    shutdown_timeout: Annotated[float | None, Parameter(metavar="SECONDS")] = None
    """How long a guest may take to shut down (else 300); after that it is left running."""

    include_isos: bool = False
    """Back up CDs and floppies, too."""

    skip_disk: Annotated[tuple[str, ...], Parameter(metavar="TARGET")] = ()
    """Leave this disk out; may be repeated."""

    change_tracking: Annotated[bool, Parameter(negative="--no-change-tracking")] = True
    """Keep a bitmap in qcow2 images, so that the next backup reads changes only."""

    compression: Annotated[int | None, Parameter(metavar="1..19")] = None
    """zstd level: 1 is fast, 19 small (else the configuration's, or 1)."""

    pack_size: Annotated[int | None, Parameter(metavar="MIB")] = None
    """Size of the repository's data files, 16 to 128 (else the configuration's, or 16)."""

    verify_writes: bool = False
    """Open every block again before it is stored: finds bad memory."""


def backup(
    *vms: Annotated[str, Parameter(metavar="VM", help="Names or UUIDs.")],
    choice: Choice = Choice(),
    manner: Manner = Manner(),
    common: Common = COMMON,
    program: Given,
) -> BackedUp:
    """Make restore points of VMs.

    A VM that is shut off is backed up as it is. One that runs is refused, unless --shutdown or --suspend allows to
    hold it still meanwhile. Only what has changed since the last restore point is read, where that can be known, and
    only what the repository does not have is stored; still every restore point is whole. Without libvirt nobody can say
    whether the images are those of a guest that was off: such a restore point counts as one after a power cut (crash).

    With several VMs, one that fails does not keep the others from being backed up; the exit code is then 3.

    Examples:
        donjon backup web01 mail --shutdown

        donjon backup --all --suspend

        donjon backup --policy nightly

        donjon backup web01 --disk vda=/images/web01.qcow2 --definition web01.xml     (without libvirt)
    """
    session = Session(common, program)
    policy = session.configuration.find_policy(choice.policy) if choice.policy else PolicySettings()
    _check(vms, choice, manner)
    options = _offline_options(manner, policy)
    settings = session.settings(policy.repository)
    write_options = _write_options(manner, settings)
    with ExitStack() as held:
        ledger = held.enter_context(session.ledger())
        repository = session.open_repository(policy.repository)
        by_hand = bool(choice.disk or choice.definition)
        hypervisor = None if by_hand else held.enter_context(session.connect(choice.connect or policy.connect))
        method = Offline(hypervisor, ledger, repository.config.id, options)
        progress = held.enter_context(session.progress())

        def run(vm: Vm) -> BackupReport:
            session.tell(f"backing up {vm.name} ...")
            return back_up(vm, method, repository, write_options, progress)

        if hypervisor is None:
            return describe_backup([run(vm_from_files(vms[0] if vms else None, choice.disk, choice.definition))], [])
        return _back_up_each(_candidates(hypervisor, vms, choice, policy), hypervisor, run, session)


class _Candidate(NamedTuple):
    """A VM that is meant: what to call it, and its UUID or what the operator calls it."""

    name: str
    key: str


def _candidates(
    hypervisor: Hypervisor, vms: tuple[str, ...], choice: Choice, policy: PolicySettings
) -> list[_Candidate]:
    """The VMs that are meant, each once."""
    labels = (*choice.label, *policy.labels)
    everything = choice.all or policy.all
    found: list[Vm] = []
    if everything or labels:
        every = hypervisor.list_vms()
        found = every if everything else [vm for vm in every if any(matches(vm, label) for label in labels)]
    known = {name for vm in found for name in (vm.uuid, vm.name)}
    said = [name for name in dict.fromkeys((*vms, *policy.vms)) if name not in known]
    if not (found or said):
        raise ConfigError("cannot back up: no VM has such a label" if labels else "cannot back up: there is no VM")
    return [_Candidate(vm.name, vm.uuid) for vm in found] + [_Candidate(name, name) for name in said]


def _back_up_each(
    candidates: list[_Candidate], hypervisor: Hypervisor, run: Callable[[Vm], BackupReport], session: Session
) -> BackedUp:
    """One after the other, each as it is when its turn comes; a single one raises its error."""
    done, failed = [], []
    for candidate in candidates:
        try:
            done.append(run(hypervisor.find_vm(candidate.key)))
        except DonjonError as error:
            if len(candidates) == 1:
                raise
            failure = describe_failure(error)
            session.warn("; ".join((f"{candidate.name}: {failure.error}", *failure.notes)))
            failed.append(FailedVm(candidate.name, failure))
    return describe_backup(done, failed)


def _check(vms: tuple[str, ...], choice: Choice, manner: Manner) -> None:
    by_hand = bool(choice.disk or choice.definition)
    by_libvirt = bool(choice.all or choice.label or choice.policy or choice.connect)
    if by_hand and (by_libvirt or len(vms) > 1):
        raise ConfigError("cannot back up: --disk and --definition are for one VM, of which libvirt is not asked")
    if not (vms or by_hand or choice.all or choice.label or choice.policy):
        raise ConfigError("cannot back up: no VM was said", hint="say names, --all, --label or --policy")
    if manner.shutdown and manner.suspend:
        raise ConfigError("cannot both shut guests down and suspend them")
    if manner.compression is not None and not 1 <= manner.compression <= 19:
        raise ConfigError(f"cannot compress at level {manner.compression}: it is 1 to 19")
    if manner.pack_size is not None and not 16 <= manner.pack_size <= 128:
        raise ConfigError(f"cannot make packs of {manner.pack_size} MiB: it is 16 to 128")


def _offline_options(manner: Manner, policy: PolicySettings) -> OfflineOptions:
    when_running = WhenRunning(policy.when_running)
    if manner.shutdown:
        when_running = WhenRunning.SHUT_DOWN
    if manner.suspend:
        when_running = WhenRunning.SUSPEND
    timeout_s = manner.shutdown_timeout or policy.shutdown_timeout or OfflineOptions().shutdown_timeout_s
    return OfflineOptions(
        when_running=when_running,
        shutdown_timeout_s=timeout_s,
        include_isos=manner.include_isos or policy.include_isos,
        skip_disks=frozenset((*manner.skip_disk, *policy.skip_disks)),
        track_changes=manner.change_tracking and policy.change_tracking,
    )


def _write_options(manner: Manner, settings: RepositorySettings) -> WriteOptions:
    usual = WriteOptions()
    pack_size = manner.pack_size or settings.pack_size
    return WriteOptions(
        level=manner.compression or settings.compression or usual.level,
        pack_size=pack_size * _MIB if pack_size else usual.pack_size,
        verify=manner.verify_writes,
    )
