# SPDX-License-Identifier: Apache-2.0
"""Builds the program from its parts; alone names concrete stores and hypervisors."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from donjon.backup.methods.checkpoints import undo_checkpoint
from donjon.backup.methods.live import CHECKPOINT_DEBT, JOB_DEBT, SCRATCH_DEBT, Live, LiveOptions
from donjon.backup.methods.offline import BITMAP_DEBT
from donjon.backup.scratch import remove_scratch
from donjon.backup.standstill import RESUME_DEBT, START_DEBT
from donjon.errors import ConfigError, HostError
from donjon.hypervisors.libvirt.hypervisor import LibvirtHypervisor
from donjon.hypervisors.libvirt.migration import LibvirtMigrator
from donjon.hypervisors.live_hypervisor import LiveHypervisor
from donjon.hypervisors.migration import Migrator
from donjon.images.bitmaps import remove_bitmap
from donjon.quiesce.freeze import FREEZE_DEBT
from donjon.quiesce.thaw import undo_freeze
from donjon.quiesce.watchdog import Watchdog
from donjon.quiesce.watchdog_process import WatchdogProcess
from donjon.repository.format.keyfile import Scrypt
from donjon.repository.store import Store
from donjon.repository.stores.local import LocalStore
from donjon.restore.drill import DRILL_DEBT, undo_drill
from donjon.restore.in_place import SWAP_DEBT, put_back
from donjon.restore.instant import INSTANT_DEBT, InstantRestore
from donjon.restore.instant_state import InstantStates
from donjon.restore.made import FILE_DEBT, remove_restored
from donjon.restore.server_process import ServerProcesses
from donjon.state.drills import Drills
from donjon.state.ledger import Debt, Ledger, Undoer
from donjon.state.process import this_process

Connect = Callable[[str], AbstractContextManager[LiveHypervisor]]
"""From an address to the hypervisor there; closed when the block is left."""

Warn = Callable[[str], None]
"""Takes a sentence for the operator."""

_LEDGER = "ledger.sqlite"
_END_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Program:
    """donjon, put together; a test puts another together.

    `scrypt` is the cost of the keys of new repositories, None for the usual one. `start_watchdog` is given the
    hypervisor's address.
    """

    connect: Connect = LibvirtHypervisor
    migrator: Callable[[str], AbstractContextManager[Migrator]] = LibvirtMigrator
    start_watchdog: Callable[[str], AbstractContextManager[Watchdog]] = WatchdogProcess
    scrypt: Scrypt | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    @property
    def state_directory(self) -> Path:
        """Where this host's ledger is."""
        return find_state_directory(self.environ, is_root=os.geteuid() == 0)

    @property
    def instant_directory(self) -> Path:
        """Where this host's VMs that run from a repository are known."""
        return self.state_directory / "instant"

    @property
    def drills(self) -> Drills:
        """Results of the drills that were held on this host."""
        return Drills(self.state_directory / "drills")

    def open_ledger(self, warn: Warn = lambda _: None) -> Ledger:
        """What donjon owes this host and its guests; `warn` is told what is better not undone. Raises HostError."""
        return Ledger(self.state_directory / _LEDGER, undoers(self.connect, warn))

    def live_method(self, hypervisor: LiveHypervisor, ledger: Ledger, repository_id: str, options: LiveOptions) -> Live:
        """Backup of guests while they run, each under the eyes of a watchdog of its own."""
        return Live(hypervisor, ledger, repository_id, options, partial(self.start_watchdog, hypervisor.uri))

    def left_owed(self) -> list[Debt]:
        """What this process and dead ones owe still. Raises HostError."""
        if not (self.state_directory / _LEDGER).exists():
            return []
        with self.open_ledger() as ledger:
            return [debt for debt in ledger.debts() if debt.owner == this_process() or not debt.owner.is_alive()]


def find_state_directory(environ: Mapping[str, str], *, is_root: bool) -> Path:
    """$DONJON_STATE_DIR, else /var/lib/donjon for root, else donjon below $XDG_STATE_HOME."""
    if chosen := environ.get("DONJON_STATE_DIR"):
        return Path(chosen)
    if is_root:
        return Path("/var/lib/donjon")
    home = environ.get("XDG_STATE_HOME") or f"{environ.get('HOME', '')}/.local/state"
    return Path(home) / "donjon"


def open_store(location: str) -> Store:
    """The store at a location as an operator writes it.

    Raises:
        ConfigError: it is none that donjon knows.
    """
    path = location.removeprefix("local:")
    scheme, colon, _ = path.partition(":")
    if not path or (colon and scheme.isalnum() and "/" not in scheme and not Path(path).exists()):
        raise ConfigError(
            f"cannot use the repository {location!r}: donjon knows directories of this host",
            hint="mount the storage and say its path; ./NAME is a directory even if it has a colon in its name",
        )
    return LocalStore(Path(path))


def undoers(connect: Connect, warn: Warn = lambda _: None) -> Mapping[str, Undoer]:
    """How to take back each kind of deed that donjon owes; what is gone meanwhile is taken back.

    `warn` is told what was left alone because it is not donjon's any more.
    """

    def forget_bitmap(path: str, bitmap: str) -> None:
        if Path(path).exists():
            remove_bitmap(path, bitmap)

    def start(uri: str, uuid: str) -> None:
        with connect(uri) as hypervisor:
            hypervisor.start(uuid)

    def resume(uri: str, uuid: str) -> None:
        with connect(uri) as hypervisor:
            hypervisor.resume(uuid)

    def forget_checkpoint(uri: str, uuid: str, checkpoint: str, images: str) -> None:
        with connect(uri) as hypervisor:
            undo_checkpoint(hypervisor, uuid, checkpoint, images)

    def end_job(uri: str, uuid: str, socket: str) -> None:
        with connect(uri) as hypervisor:
            hypervisor.end_backup(uuid, Path(socket), _END_TIMEOUT_S)

    return {
        BITMAP_DEBT: forget_bitmap,
        SCRATCH_DEBT: remove_scratch,
        CHECKPOINT_DEBT: forget_checkpoint,
        JOB_DEBT: end_job,
        FREEZE_DEBT: partial(undo_freeze, connect),
        START_DEBT: start,
        RESUME_DEBT: resume,
        FILE_DEBT: partial(_remove, warn),
        INSTANT_DEBT: partial(_undo_instant, connect),
        DRILL_DEBT: partial(_undo_drill, connect),
        SWAP_DEBT: partial(_put_back, warn),
    }


def _remove(warn: Warn, **made: Any) -> None:
    if left := remove_restored(**made):
        warn(left)


def _undo_instant(connect: Connect, uri: str, uuid: str, states: str) -> None:
    known = InstantStates(Path(states))
    with connect(uri) as hypervisor:
        InstantRestore(hypervisor, known, ServerProcesses(known)).undo(uuid)


def _undo_drill(connect: Connect, uri: str, name: str, folder: str, network: str, states: str) -> None:
    known = InstantStates(Path(states))
    with connect(uri) as hypervisor:
        undo_drill(hypervisor, known, ServerProcesses(known), name, folder, network)


def _put_back(warn: Warn, swaps: str) -> None:
    try:
        put_back(swaps)
    except HostError as error:
        warn(str(error))
        raise
