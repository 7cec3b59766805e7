# SPDX-License-Identifier: Apache-2.0
"""Instant restore: a VM runs at once, its disks read from the repository and written to overlays of its own.

What the guest writes is in the overlays only, which no server has a hand in: if that dies the guest is paused, and goes
on when it is back.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from donjon import trace
from donjon.errors import ConfigError, DonjonError, HostError, RefusedError
from donjon.hypervisors.hot_backup import HotBackup
from donjon.hypervisors.hypervisor import Hypervisor
from donjon.hypervisors.live_disks import LiveDisks
from donjon.images.new_file import new_file
from donjon.model.progress import Progress
from donjon.model.restore_point import Manifest, RestorePoint
from donjon.model.vm import Power
from donjon.repository.repository import Repository
from donjon.restore.instant_state import (
    InstantDisk,
    InstantState,
    InstantStates,
    OwnFile,
    make_socket_folder,
    remove_socket_folder,
    socket_folder,
)
from donjon.restore.made import Made, made
from donjon.restore.overlay import create_overlay, flatten, needs_server, pausing_on_errors
from donjon.restore.plan import Plan, file_name, plan_definition
from donjon.restore.whole_vm import RestoreOptions, refuse_existing, restore_side_files
from donjon.restore_points import load_definition, load_manifest, safe_name
from donjon.state.ledger import Ledger

INSTANT_DEBT = "restore.instant"

_ATTEMPTS = 3
_GO_ON_S = 60.0
_STAYS = 10
"""How many looks a guest must run before it is thought to have what it needs."""


class InstantHost(Hypervisor, HotBackup, LiveDisks, Protocol):
    """What runs such VMs."""


class Servers(Protocol):
    """The NBD servers of VMs that run from a repository, by UUID; they outlive the command that starts them."""

    def is_serving(self, vm_uuid: str) -> bool:
        """Whether one is there."""
        ...

    def start(self, state: InstantState, repository: Repository) -> None:
        """Start one; returns when it answers. It keeps a lock on the repository. Raises DonjonError."""
        ...

    def stop(self, vm_uuid: str) -> None:
        """End it; returns when it has gone. Succeeds if there is none. Raises HostError."""
        ...


class InstantRestore:
    """Begins such restores and brings them to an end; each step can be repeated after it was interrupted."""

    def __init__(
        self, hypervisor: InstantHost, states: InstantStates, servers: Servers, *, poll_s: float = 0.3
    ) -> None:
        """Have what it needs; `poll_s` is the time between two looks at a guest."""
        self._hypervisor = hypervisor
        self._states = states
        self._servers = servers
        self._poll_s = poll_s

    def begin(
        self,
        repository: Repository,
        point: RestorePoint,
        ledger: Ledger,
        options: RestoreOptions,
        adapt: Callable[[str], str] | None = None,
    ) -> tuple[InstantState, tuple[str, ...]]:
        """Define a VM over disks in the repository, and start it; with what the operator should know of it.

        `adapt` may change its definition, but for name, UUID and disks.

        Raises:
            RefusedError: a file or a VM of that name or UUID exists.
            ConfigError: the restore point has no definition.
            HostError: something cannot be made, or the guest not be started. Whatever is raised, nothing is left.
        """
        manifest = load_manifest(repository, point)
        disks = _place(manifest, options.name or point.vm_name, options.directory.absolute())
        plan = _plan(repository, point, manifest, disks, options)
        if adapt:
            plan = replace(plan, definition=adapt(plan.definition))
        refuse_existing(self._hypervisor, plan.vm)
        state = self._describe(repository, point, plan, disks)
        with self._states.alone(state.vm_uuid):
            state = self._make(repository, point, ledger, manifest, plan, state)
            trace.reached("instant.settled")
            try:
                self._hypervisor.start(state.vm_uuid)
            except DonjonError as error:
                self._take_back(state, error)
                raise
        trace.reached("instant.started")
        return state, plan.notes

    def resume(self, repository: Repository, state: InstantState) -> None:
        """Have the server there again, and the guest running. Raises HostError if it does not stay so."""
        with self._states.alone(state.vm_uuid):
            self._have_served(state, repository)
            self._hypervisor.start(state.vm_uuid)
            self._let_go_on(state)

    def finish(self, repository: Repository, state: InstantState, progress: Progress) -> None:
        """Bring all disks into the overlays, while the guest runs if it does; then the repository is not needed.

        Raises:
            HostError: a disk could not be brought over. Nothing is lost: it can be tried again.
        """
        with self._states.alone(state.vm_uuid):
            for disk in state.disks:
                self._bring_over(repository, state, disk, progress)
                trace.reached("instant.disk-finished")
            self._servers.stop(state.vm_uuid)
            trace.reached("instant.server-stopped")
            remove_socket_folder(Path(state.folder))
            self._states.remove(state.vm_uuid)

    def discard(self, state: InstantState) -> None:
        """Remove the VM and all that was made for it, with what its guest has written. Raises HostError."""
        with self._states.alone(state.vm_uuid):
            self._discard(state)

    def undo(self, vm_uuid: str) -> None:
        """Take back what a command that died had only half made."""
        state = self._states.load(vm_uuid)
        if state is not None and not state.settled:
            self._discard(state)
        with suppress(RefusedError), self._states.alone(vm_uuid):  # its lock goes, too, unless it is in use
            pass

    def _describe(
        self, repository: Repository, point: RestorePoint, plan: Plan, disks: tuple[InstantDisk, ...]
    ) -> InstantState:
        if not plan.vm.uuid:
            raise ConfigError(f"cannot run {plan.vm.name}: its definition has no UUID", hint="say --new-identity")
        if self._states.load(plan.vm.uuid) is not None:
            raise RefusedError(
                f"cannot restore {plan.vm.name}: an instant restore of it is under way",
                hint="`donjon instant` shows it",
            )
        return InstantState(
            vm_uuid=plan.vm.uuid,
            vm_name=plan.vm.name,
            uri=self._hypervisor.uri,
            repository=repository.store.location,
            repository_id=repository.config.id,
            point=point,
            begun_at=datetime.now(UTC),
            folder=str(socket_folder(plan.path.parent, plan.vm.uuid)),
            disks=disks,
            files=(),
            definition=str(plan.path),
        )

    def _make(
        self,
        repository: Repository,
        point: RestorePoint,
        ledger: Ledger,
        manifest: Manifest,
        plan: Plan,
        state: InstantState,
    ) -> InstantState:
        """All but the running guest. Until it is all there it is owed; from then on it stays, and can be resumed."""
        with made(ledger) as new:
            new.directory(plan.path.parent)
            _make_overlays(manifest, state, new)
            restore_side_files(repository, point, manifest, plan, new)
            trace.reached("instant.files-made")
            with ledger.owing(
                INSTANT_DEBT, uri=state.uri, uuid=state.vm_uuid, states=str(self._states.directory)
            ) as debt:
                state = replace(state, files=_own_files(state, plan))
                self._states.save(state)
                new.keep()
                trace.reached("instant.owed")
                self._hypervisor.define(plan.definition)
                trace.reached("instant.defined")
                self._have_served(state, repository)
                trace.reached("instant.served")
                state = replace(state, settled=True)
                self._states.save(state)
                debt.forgive()
        return state

    def _have_served(self, state: InstantState, repository: Repository) -> None:
        if not self._servers.is_serving(state.vm_uuid):
            owner = self._hypervisor.qemu_owner(state.vm_uuid)
            make_socket_folder(Path(state.folder), owner.uid, owner.gid)
            self._servers.start(state, repository)

    def _let_go_on(self, state: InstantState) -> None:
        """A guest paused by an error goes on, at the latest when QEMU has found the server again."""
        deadline = time.monotonic() + _GO_ON_S
        ran = 0
        while ran < _STAYS:
            ran += 1
            if self._hypervisor.power(state.vm_uuid) is not Power.RUNNING:
                if time.monotonic() > deadline:
                    raise HostError(
                        f"cannot let {state.vm_name} go on: it is paused again and again",
                        hint="`virsh domblkerror` says which disk is at fault",
                    )
                self._hypervisor.resume(state.vm_uuid)
                ran = 0
            time.sleep(self._poll_s)

    def _bring_over(self, repository: Repository, state: InstantState, disk: InstantDisk, progress: Progress) -> None:
        for _ in range(_ATTEMPTS):
            if not needs_server(Path(disk.overlay)):
                return
            self._have_served(state, repository)
            progress.begin(disk.target, disk.size)
            if self._hypervisor.power(state.vm_uuid) is Power.OFF:
                flatten(Path(disk.overlay))
                progress.advance(disk.size)
                continue
            self._refuse_another_image(state, disk)
            if self._hypervisor.disk_errors(state.vm_uuid):
                self._let_go_on(state)
            self._pull(state, disk, progress)
        if needs_server(Path(disk.overlay)):
            raise HostError(
                f"cannot bring disk {disk.target} of {state.vm_name} over: it stopped {_ATTEMPTS} times",
                hint="look at the guest's log and at the space beside its disks, then run it again",
            )

    def _refuse_another_image(self, state: InstantState, disk: InstantDisk) -> None:
        """A guest that writes to an image over ours would have all copied into that one."""
        sources = {other.target: other.source for other in self._hypervisor.find_vm(state.vm_uuid).disks}
        if sources.get(disk.target) != disk.overlay:
            raise RefusedError(
                f"cannot bring disk {disk.target} of {state.vm_name} over: it is not on {disk.overlay} any more",
                hint="were snapshots taken of it? Merge them, then run it again",
            )

    def _pull(self, state: InstantState, disk: InstantDisk, progress: Progress) -> None:
        """Until it is over, whoever began it. Whether it went well is for the image to say."""
        if self._hypervisor.pull_progress(state.vm_uuid, disk.target) is None:
            self._hypervisor.begin_pull(state.vm_uuid, disk.target)
            trace.reached("instant.pulling")
        told = 0
        while (pulled := self._pulled(state, disk)) is not None:
            done, total = pulled
            now = disk.size * done // total if total else 0
            progress.advance(max(0, now - told))
            told = max(told, now)
            time.sleep(self._poll_s)
        progress.advance(disk.size - told)

    def _pulled(self, state: InstantState, disk: InstantDisk) -> tuple[int, int] | None:
        try:
            return self._hypervisor.pull_progress(state.vm_uuid, disk.target)
        except HostError:
            if self._hypervisor.power(state.vm_uuid) is Power.OFF:  # by now: it ended while it was copied
                return None
            raise

    def _take_back(self, state: InstantState, error: DonjonError) -> None:
        try:
            self._discard(state)
        except (DonjonError, OSError) as failure:
            error.add_note(f"{failure}; `donjon restore --discard {state.vm_uuid}` removes what is left")

    def _discard(self, state: InstantState) -> None:
        self._remove_vm(state)
        trace.reached("instant.undefined")
        self._servers.stop(state.vm_uuid)
        for file in state.files:
            _remove(file)
            if Path(file.path).parent.name == state.vm_uuid:  # where its TPM's state was
                with suppress(OSError):  # gone already, or something is in it
                    Path(file.path).parent.rmdir()
        remove_socket_folder(Path(state.folder))
        trace.reached("instant.files-removed")
        self._states.remove(state.vm_uuid)

    def _remove_vm(self, state: InstantState) -> None:
        """Unless it is gone, or another one that somebody made under its UUID before ours was there."""
        overlays = {disk.overlay for disk in state.disks}
        vm = next((vm for vm in self._hypervisor.list_vms() if vm.uuid == state.vm_uuid), None)
        if vm is None:
            return
        if overlays <= {disk.source for disk in vm.disks}:
            self._hypervisor.destroy(state.vm_uuid)
            self._hypervisor.undefine(state.vm_uuid)
        elif state.settled:
            raise RefusedError(
                f"cannot discard {state.vm_name}: it has other disks than it was given",
                hint="were snapshots taken of it? Merge them, or undefine it by hand",
            )


def _place(manifest: Manifest, name: str, directory: Path) -> tuple[InstantDisk, ...]:
    return tuple(
        InstantDisk(disk.target, str(directory / file_name(name, f"-{safe_name(disk.target)}.qcow2")), disk.size)
        for disk in manifest.disks
    )


def _plan(
    repository: Repository,
    point: RestorePoint,
    manifest: Manifest,
    disks: tuple[InstantDisk, ...],
    options: RestoreOptions,
) -> Plan:
    definition = load_definition(repository, point)
    if definition is None:
        raise ConfigError(
            f"cannot run {point.vm_name}: its restore point has disks, but no definition",
            hint="`donjon serve-nbd` serves its disks to a VM that you define",
        )
    plan = plan_definition(
        definition,
        directory=options.directory.absolute(),
        name=options.name or point.vm_name,
        new_name=options.name,
        new_identity=options.new_identity or options.name is not None,
        disks={disk.target: (disk.overlay, "qcow2") for disk in disks},
        side_files=manifest.side_files,
        tpm_root=options.tpm_root,
    )
    targets = {disk.target for disk in disks}
    return replace(plan, definition=pausing_on_errors(plan.definition, targets))


def _make_overlays(manifest: Manifest, state: InstantState, new: Made) -> None:
    options = {disk.target: disk.image_options for disk in manifest.disks}
    for disk in state.disks:
        path = Path(disk.overlay)
        with new_file(path, exist_ok=False, announce=new.making(path)) as unfinished:
            create_overlay(unfinished, disk.size, options[disk.target], state.socket, disk.target)


def _own_files(state: InstantState, plan: Plan) -> tuple[OwnFile, ...]:
    paths = [*(Path(disk.overlay) for disk in state.disks), *plan.side_paths.values(), plan.path]
    return tuple(OwnFile(str(path), path.lstat().st_ino) for path in paths)


def _remove(file: OwnFile) -> None:
    """Unless it is gone, or another one by now. Raises HostError."""
    path = Path(file.path)
    try:
        if path.lstat().st_ino != file.inode:
            return
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        raise HostError(f"cannot remove {path}: {error.strerror}") from error
