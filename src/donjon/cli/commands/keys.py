# SPDX-License-Identifier: Apache-2.0
"""The passwords that open a repository."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from cyclopts import Parameter

from donjon.cli.options import COMMON, Common, Given
from donjon.cli.page import Page
from donjon.cli.passwords import PasswordSource, ask_twice
from donjon.cli.result import Deed, Result
from donjon.cli.session import Session, find_repository
from donjon.cli.text import moment, utc
from donjon.errors import IntegrityError
from donjon.repository.format import go_json
from donjon.repository.format.keyfile import decode_key_file, open_key_file
from donjon.repository.keys import add_key, find_key_named, load_keys, remove_key, resolve_key
from donjon.repository.repository import Repository
from donjon.repository.store import FileName, FileType

NewFile = Annotated[str | None, Parameter(metavar="FILE", help="File whose first line is the new password.")]
NewCommand = Annotated[str | None, Parameter(metavar="COMMAND", help="Program that prints the new password.")]


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """A key of the repository; `current` is the one whose password was given."""

    id: str
    user: str
    host: str
    created: datetime
    current: bool


@dataclass(frozen=True, slots=True)
class KeyList(Result):
    """All keys."""

    keys: tuple[KeyEntry, ...]

    def show(self, page: Page) -> None:
        """A table; an asterisk marks the key in use."""
        rows = [("*" if key.current else "", key.id[:8], key.user, key.host, moment(key.created)) for key in self.keys]
        page.table(("", "id", "user", "host", "created"), rows)


@dataclass(frozen=True, slots=True)
class KeysChanged(Deed):
    """Ids of the keys that were added and removed."""

    added: str | None = None
    removed: str | None = None

    def show(self, page: Page) -> None:
        """What opens the repository now, and what does not any more."""
        if self.added:
            page.line(f"added key {self.added[:8]}")
        if self.removed:
            page.line(f"removed key {self.removed[:8]}: its password does not open the repository any more")


def add(
    *,
    new_password_file: NewFile = None,
    new_password_command: NewCommand = None,
    common: Common = COMMON,
    program: Given,
) -> KeysChanged:
    """Let a further password open the repository.

    Without options, the new password is asked for.

    Examples:
        donjon key add -r /backup/vms --new-password-file /root/second.password
    """
    session = Session(common, program)
    repository, _ = _open_named(session)
    new = _new_password(session, new_password_file, new_password_command)
    return KeysChanged(added=add_key(repository.store, repository.key, new, scrypt=program.scrypt))


def list_keys(*, common: Common = COMMON, program: Given) -> KeyList:
    """List the repository's keys.

    Examples:
        donjon key list -r /backup/vms
    """
    repository, current = _open_named(Session(common, program))
    return KeyList(
        tuple(
            KeyEntry(name, key.username, key.hostname, utc(go_json.parse_time(key.created)), name == current)
            for name, key in load_keys(repository.store)
        )
    )


def remove(
    id: Annotated[str, Parameter(help="The key's, or its first digits, as `donjon key list` shows them.")],
    /,
    *,
    common: Common = COMMON,
    program: Given,
) -> KeysChanged:
    """Make a password useless.

    The key in use cannot be removed. Whoever has kept a copy of the key's file and knows its password can still read
    what is in the repository.

    Examples:
        donjon key remove 3f2a9c11 -r /backup/vms
    """
    repository, current = _open_named(Session(common, program))
    name = resolve_key(repository.store, id)
    remove_key(repository.store, name, current=current)
    return KeysChanged(removed=name)


def passwd(
    *,
    new_password_file: NewFile = None,
    new_password_command: NewCommand = None,
    common: Common = COMMON,
    program: Given,
) -> KeysChanged:
    """Change the password in use.

    The new key is added and proven to open the repository before the old one is removed.

    Examples:
        donjon key passwd -r /backup/vms
    """
    session = Session(common, program)
    repository, current = _open_named(session)
    new = _new_password(session, new_password_file, new_password_command)
    added = add_key(repository.store, repository.key, new, scrypt=program.scrypt)
    _prove(repository, added, new)
    remove_key(repository.store, current, current=added)
    return KeysChanged(added=added, removed=current)


def _open_named(session: Session) -> tuple[Repository, str]:
    """The repository, and the id of the key that opens it."""
    settings = session.settings()
    store = find_repository(settings.location)
    password = session.password(settings)
    repository = Repository.open(store, password)
    return repository, find_key_named(store, password)[0]


def _prove(repository: Repository, key: str, password: str) -> None:
    """Do nothing if this very key opens the repository with that password. Raises IntegrityError, StoreError."""
    content = repository.store.load(FileName(FileType.KEY, key))
    if open_key_file(decode_key_file(content), password) != repository.key:
        raise IntegrityError(f"cannot use the new key {key[:8]}: it does not open the repository; the old one stays")


def _new_password(session: Session, file: str | None, command: str | None) -> str:
    source = PasswordSource(file, command)
    return source.read(session.warn) if source else ask_twice()
