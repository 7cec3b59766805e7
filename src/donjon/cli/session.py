# SPDX-License-Identifier: Apache-2.0
"""One run of a verb: the repository, host and ledger it works with, and what it tells the operator meanwhile."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cached_property
from socket import getfqdn, gethostname

from donjon.cli.options import Common
from donjon.cli.passwords import PasswordSource, find_new_password, find_password
from donjon.cli.progress import Bars, shown_bars, shown_progress
from donjon.cli.text import count, safe
from donjon.config import Configuration, RepositorySettings, find_configuration, load_configuration
from donjon.errors import ConfigError, FileMissingError, NoRepositoryError, StoreError
from donjon.hypervisors.live_hypervisor import LiveHypervisor
from donjon.hypervisors.selection import other_host
from donjon.model.progress import Progress
from donjon.model.restore_point import RestorePoint
from donjon.repository import lock
from donjon.repository.repository import CONFIG, Repository
from donjon.repository.store import Store
from donjon.restore_points import survey_restore_points
from donjon.scratch_folder import sweep_scratch_folders
from donjon.state.ledger import Debt, Ledger
from donjon.wiring import Program, open_store

DEFAULT_URI = "qemu:///system"


class Session:
    """What a verb needs, made when it is asked for."""

    def __init__(self, common: Common, program: Program) -> None:
        self.program = program
        self.common = common

    @cached_property
    def configuration(self) -> Configuration:
        """What the configuration file says. Raises ConfigError."""
        return load_configuration(find_configuration(self.common.config, self.program.environ))

    def settings(self, name: str | None = None) -> RepositorySettings:
        """The repository that is meant: by --repo, else `name`, else the environment, else the only one configured.

        Raises:
            ConfigError: none is.
        """
        settings = self.settings_if_any(name)
        if settings is None:
            raise ConfigError(
                "cannot tell which repository is meant", hint="say --repo DIRECTORY, or set DONJON_REPOSITORY"
            )
        return settings

    def settings_if_any(self, name: str | None = None) -> RepositorySettings | None:
        """The same, None if no repository is meant. Raises ConfigError if the configuration cannot be read."""
        known = self.configuration.repository
        chosen = self.common.repo or name or self.program.environ.get("DONJON_REPOSITORY")
        if chosen:
            return known.get(chosen) or RepositorySettings(location=chosen)
        return next(iter(known.values())) if len(known) == 1 else None

    def open_repository(self, name: str | None = None) -> Repository:
        """Open it. Raises as `Repository.open`, and ConfigError if no password is given."""
        settings = self.settings(name)
        store = find_repository(settings.location)
        return Repository.open(store, self.password(settings))

    @contextmanager
    def reading(self, name: str | None = None, *, no_lock: bool = False) -> Iterator[Repository]:
        """Open a repository, from which nobody removes anything meanwhile; `no_lock`: the operator sees to that.

        Raises:
            RepositoryLockedError: somebody is about to.
            StoreError: the lock cannot be written.
        """
        repository = self.open_repository(name)
        with ExitStack() as held:
            if not no_lock:
                try:
                    held.enter_context(lock.held(repository.files))
                except StoreError as error:
                    raise StoreError(
                        str(error), hint="from storage that is full or cannot be written, --no-lock reads all the same"
                    ) from error
            yield repository

    def restore_points(self, repository: Repository) -> list[RestorePoint]:
        """All that can be read, oldest first; says which cannot. Raises StoreError."""
        points, damaged = survey_restore_points(repository)
        for sentence in damaged:
            self.warn(f"{sentence}; run `donjon check`")
        return list(points)

    def create_repository(self) -> Repository:
        """Make a new one. Raises as `Repository.create`."""
        settings = self.settings()
        store = open_store(settings.location)
        password = find_new_password(self._sources(settings), self.program.environ, self.warn)
        return Repository.create(store, password, scrypt=self.program.scrypt)

    def password(self, settings: RepositorySettings) -> str:
        """The password of an existing repository. Raises ConfigError."""
        return find_password(self._sources(settings), self.program.environ, self.warn)

    def _sources(self, settings: RepositorySettings) -> tuple[PasswordSource, ...]:
        asked = PasswordSource(self.common.password_file, self.common.password_command)
        return asked, PasswordSource(settings.password_file, settings.password_command)

    def connect(self, uri: str | None, *, only_looking: bool = False) -> AbstractContextManager[LiveHypervisor]:
        """The hypervisor at an address, or the usual one.

        Raises:
            ConfigError: it is on another host, whose disks cannot be reached from here, and not only looked at.
            HostError: it cannot be reached.
        """
        address = uri or self.program.environ.get("LIBVIRT_DEFAULT_URI") or DEFAULT_URI
        host = None if only_looking else other_host(address, gethostname(), getfqdn())
        if host is not None:
            raise ConfigError(
                f"cannot work with the VMs at {address}: their disks are files of {host}, not of this host",
                hint=f"run donjon on {host}; `donjon vms` looks from anywhere",
            )
        return self.program.connect(address)

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """The host's ledger, after what an earlier run left behind was put right. Raises HostError."""
        with self.program.open_ledger(self.warn) as ledger:
            undone, left = settle(ledger)
            if undone:
                self.warn(f"an earlier run did not end in order; undone: {', '.join(map(str, undone))}")
            if left:
                self.warn(
                    f"an earlier run left {count(len(left), 'debt')} that cannot be undone yet: "
                    f"{', '.join(map(str, left))}; see `donjon owed`, `donjon settle`"
                )
            yield ledger

    def progress(self) -> AbstractContextManager[Progress]:
        """Shown unless nobody wants to see it."""
        return shown_progress(quiet=self.common.quiet or self.common.json)

    def bars(self) -> AbstractContextManager[Bars]:
        """The same, for several things at a time."""
        return shown_bars(quiet=self.common.quiet or self.common.json)

    def tell(self, text: str) -> None:
        """Say what goes on, to whoever wants to know."""
        if not self.common.quiet:
            sys.stderr.write(f"{safe(text)}\n")  # at once, for the sake of several threads

    def warn(self, text: str) -> None:
        """Say what the operator should know in any case."""
        sys.stderr.write(f"donjon: warning: {safe(text)}\n")


def find_repository(location: str) -> Store:
    """The store of a repository that is there: nobody should be asked for a password in vain.

    Raises:
        NoRepositoryError: there is none.
        ConfigError: the location makes no sense.
    """
    store = open_store(location)
    try:
        store.size(CONFIG)
    except FileMissingError as error:
        raise NoRepositoryError(
            f"cannot open a repository at {store.location}: there is none",
            hint="check the address; `donjon init` makes a new repository",
        ) from error
    return store


def settle(ledger: Ledger) -> tuple[list[Debt], list[Debt]]:
    """Put right what dead processes left; returns what was undone, and what could not be. Raises HostError."""
    orphans = [debt for debt in ledger.debts() if not debt.owner.is_alive()]
    sweep_scratch_folders()
    left = ledger.settle()
    still = {debt.id for debt in left}
    return [debt for debt in orphans if debt.id not in still], left
