# SPDX-License-Identifier: Apache-2.0
"""VMs that run from a repository: begun, brought to an end, listed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from donjon.cli.commands.restore_options import Instant, Manner, Target, find_directory
from donjon.cli.commands.restore_result import InstantDeed, Restored, describe_instant
from donjon.cli.options import COMMON, Common, Given
from donjon.cli.page import Page
from donjon.cli.result import Point, Result, describe_point
from donjon.cli.session import Session
from donjon.cli.text import moment, utc
from donjon.errors import ConfigError
from donjon.model.restore_point import RestorePoint
from donjon.repository.repository import Repository
from donjon.restore.instant import InstantRestore
from donjon.restore.instant_state import InstantDisk, InstantState, InstantStates
from donjon.restore.server_process import ServerProcesses
from donjon.restore.whole_vm import RestoreOptions

_ERRORS_PAUSE = "an error of its disks pauses the guest (error_policy='stop'), now and later"


@dataclass(frozen=True, slots=True)
class InstantEntry:
    """A VM that runs from a repository; `served`: its disks can be read. Sizes in bytes."""

    vm_name: str
    vm_uuid: str
    restore_point: Point
    begun_at: datetime
    served: bool
    connection: str
    repository: str
    disks: tuple[InstantDisk, ...]


@dataclass(frozen=True, slots=True)
class InstantList(Result):
    """All VMs of this host that run from a repository."""

    instant: tuple[InstantEntry, ...]

    def show(self, page: Page) -> None:
        """A table; nothing if there are none."""
        rows = [
            (
                entry.vm_name,
                moment(entry.begun_at),
                entry.restore_point.short_id,
                "yes" if entry.served else "no: donjon restore --resume",
                entry.repository,
            )
            for entry in self.instant
        ]
        if rows:
            page.table(("name", "since", "from", "served", "repository"), rows)


def instant(*, common: Common = COMMON, program: Given) -> InstantList:
    """List the VMs that run from a repository.

    They were begun by `donjon restore --instant`, and are here until --finish or --discard.

    Examples:
        donjon instant
    """
    del common
    states = InstantStates(program.instant_directory)
    servers = ServerProcesses(states)
    return InstantList(tuple(_entry(state, served=servers.is_serving(state.vm_uuid)) for state in states.list()))


def begin_instant(
    session: Session, repository: Repository, point: RestorePoint, target: Target, manner: Manner
) -> Restored:
    """Run a VM from the repository."""
    states = InstantStates(session.program.instant_directory)
    with session.ledger() as ledger, session.connect(manner.connect) as hypervisor:
        options = RestoreOptions(
            directory=find_directory(target, hypervisor).absolute(),
            tpm_root=hypervisor.tpm_root,
            name=manner.name,
            new_identity=manner.new_identity,
        )
        restore = InstantRestore(hypervisor, states, ServerProcesses(states, no_lock=manner.no_lock))
        state, notes = restore.begin(repository, point, ledger, options)
    return describe_instant(state, "begun", (*notes, _ERRORS_PAUSE))


def continue_instant(session: Session, name: str, what: Instant, *, no_lock: bool) -> Restored:
    """Have a VM that runs from the repository go on, brought over, or removed."""
    states = InstantStates(session.program.instant_directory)
    with session.ledger():
        state = states.find(name)
    if what.discard:
        with session.connect(state.uri) as hypervisor:
            InstantRestore(hypervisor, states, ServerProcesses(states)).discard(state)
        return describe_instant(state, "discarded")
    with session.reading(no_lock=no_lock) as repository, session.connect(state.uri) as hypervisor:
        _refuse_another(repository, state)
        restore = InstantRestore(hypervisor, states, ServerProcesses(states, no_lock=no_lock))
        if what.resume:
            restore.resume(repository, state)
        else:
            with session.progress() as progress:
                restore.finish(repository, state, progress)
    deed: InstantDeed = "resumed" if what.resume else "finished"
    return describe_instant(state, deed)


def _refuse_another(repository: Repository, state: InstantState) -> None:
    if repository.config.id != state.repository_id:
        raise ConfigError(
            f"cannot go on with {state.vm_name}: it runs from another repository", hint=f"say --repo {state.repository}"
        )


def _entry(state: InstantState, *, served: bool) -> InstantEntry:
    return InstantEntry(
        state.vm_name,
        state.vm_uuid,
        describe_point(state.point),
        utc(state.begun_at),
        served,
        state.uri,
        state.repository,
        state.disks,
    )
