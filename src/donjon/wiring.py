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

from donjon.backup.methods.offline import BITMAP_DEBT
from donjon.backup.standstill import RESUME_DEBT, START_DEBT
from donjon.errors import ConfigError, HostError
from donjon.hypervisors.hypervisor import Hypervisor
from donjon.hypervisors.libvirt.hypervisor import LibvirtHypervisor
from donjon.images.bitmaps import remove_bitmap
from donjon.repository.format.keyfile import Scrypt
from donjon.repository.store import Store
from donjon.repository.stores.local import LocalStore
from donjon.restore.in_place import SWAP_DEBT, put_back
from donjon.restore.made import FILE_DEBT, remove_restored
from donjon.state.ledger import Debt, Ledger, Undoer
from donjon.state.process import this_process

Connect = Callable[[str], AbstractContextManager[Hypervisor]]
"""From an address to the hypervisor there; closed when the block is left."""

Warn = Callable[[str], None]
"""Takes a sentence for the operator."""

_LEDGER = "ledger.sqlite"


@dataclass(frozen=True, slots=True)
class Program:
    """donjon, put together; a test puts another together.

    `scrypt` is the cost of the keys of new repositories, None for the usual one.
    """

    connect: Connect = LibvirtHypervisor
    scrypt: Scrypt | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    @property
    def state_directory(self) -> Path:
        """Where this host's ledger is."""
        return find_state_directory(self.environ, is_root=os.geteuid() == 0)

    def open_ledger(self, warn: Warn = lambda _: None) -> Ledger:
        """What donjon owes this host and its guests; `warn` is told what is better not undone. Raises HostError."""
        return Ledger(self.state_directory / _LEDGER, undoers(self.connect, warn))

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

    return {
        BITMAP_DEBT: forget_bitmap,
        START_DEBT: start,
        RESUME_DEBT: resume,
        FILE_DEBT: partial(_remove, warn),
        SWAP_DEBT: partial(_put_back, warn),
    }


def _remove(warn: Warn, **made: Any) -> None:
    if left := remove_restored(**made):
        warn(left)


def _put_back(warn: Warn, swaps: str) -> None:
    try:
        put_back(swaps)
    except HostError as error:
        warn(str(error))
        raise
