# SPDX-License-Identifier: Apache-2.0
"""The keys of a repository: several passwords for one master key, each in a file of its own."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from datetime import UTC, datetime

from donjon.errors import (
    ConfigError,
    FileMissingError,
    IntegrityError,
    NoRepositoryError,
    RefusedError,
    WrongPasswordError,
)
from donjon.repository.format.crypto import SecretKey
from donjon.repository.format.keyfile import KeyFile, Scrypt, decode_key_file, new_key_file, open_key_file
from donjon.repository.lock import username
from donjon.repository.store import FileName, FileType, Store

_MOST_KEYS = 20


def add_key(store: Store, master: SecretKey, password: str, *, scrypt: Scrypt | None = None) -> str:
    """Let a further password open the repository; returns the new key's id.

    Raises:
        ConfigError: the password is empty.
        StoreError: the key cannot be saved.
    """
    if not password:
        raise ConfigError("cannot use an empty password")
    content = new_key_file(
        master,
        password,
        created=datetime.now(UTC),
        username=username(),
        hostname=socket.gethostname(),
        scrypt=scrypt or Scrypt(),
    )
    name = hashlib.sha256(content).hexdigest()
    store.save(FileName(FileType.KEY, name), [content])
    return name


def load_keys(store: Store) -> Iterator[tuple[str, KeyFile]]:
    """Ids and files of all keys.

    Raises:
        IntegrityError: one is damaged.
    """
    for info in sorted(store.list(FileType.KEY)):
        yield info.name, _load_key(store, info.name)


def find_key(store: Store, password: str) -> SecretKey:
    """The master key, by whichever key file the password fits.

    Raises:
        WrongPasswordError: it fits none.
        NoRepositoryError: there are no keys at all.
        IntegrityError: it fits none of those that can be read, and some cannot.
    """
    return find_key_named(store, password)[1]


def find_key_named(store: Store, password: str) -> tuple[str, SecretKey]:
    """The same, with the id of the key file."""
    names = [info.name for info in sorted(store.list(FileType.KEY))]
    if not names:
        raise NoRepositoryError(f"cannot open the repository at {store.location}: it has no keys")
    damage: IntegrityError | None = None
    for name in names[:_MOST_KEYS]:
        try:
            master = open_key_file(_load_key(store, name), password)
        except IntegrityError as error:
            damage = error
            continue
        if master is not None:
            return name, master
    if damage:
        raise damage
    raise WrongPasswordError(f"cannot open the repository at {store.location}: wrong password")


def remove_key(store: Store, name: str, *, current: str) -> None:
    """Make a password useless.

    Raises:
        RefusedError: it is the key in use.
        FileMissingError: there is no such key.
    """
    if name == current:
        raise RefusedError(
            f"cannot remove key {name[:8]}: it is the one in use", hint="open the repository with another password"
        )
    store.size(FileName(FileType.KEY, name))
    store.delete(FileName(FileType.KEY, name))


def resolve_key(store: Store, prefix: str) -> str:
    """The id of the one key that begins with `prefix`. Raises FileMissingError, ConfigError if several do."""
    names = [info.name for info in store.list(FileType.KEY) if info.name.startswith(prefix)]
    if not names:
        raise FileMissingError(f"cannot find key {prefix}", hint="`donjon key list` shows all keys")
    if len(names) > 1:
        raise ConfigError(f"cannot tell which key {prefix} means: {len(names)} begin like that")
    return names[0]


def _load_key(store: Store, name: str) -> KeyFile:
    content = store.load(FileName(FileType.KEY, name))
    if hashlib.sha256(content).hexdigest() != name:
        raise IntegrityError(f"cannot read key {name[:8]}: the file is damaged")
    return decode_key_file(content)
