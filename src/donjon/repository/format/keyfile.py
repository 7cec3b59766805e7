# SPDX-License-Identifier: Apache-2.0
"""Key files: the repository's master key, sealed under a key that scrypt derives from a password.

Source: restic design.rst, "Keys, Encryption and MAC"; restic internal/crypto/kdf.go.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime

import msgspec

from donjon.errors import IntegrityError
from donjon.repository.format import go_json
from donjon.repository.format.crypto import SecretKey, open_sealed, seal

_SALT_LENGTH = 64
_MOST_MEMORY = 1 << 30
_MOST_WORK = 1 << 28  # some 200 times what restic and donjon choose


@dataclass(frozen=True, slots=True)
class Scrypt:
    """Cost of one guess at a password; memory is 128 * n * r bytes."""

    n: int = 32768
    r: int = 8
    p: int = 2


class KeyFile(msgspec.Struct, frozen=True, kw_only=True):
    """A key file as it is stored, in restic's field order. `salt` and `data` are base64 in the file."""

    created: str
    username: str
    hostname: str
    kdf: str
    n: int = msgspec.field(name="N")
    r: int
    p: int
    salt: bytes
    data: bytes


class _Mac(msgspec.Struct, frozen=True):
    k: bytes
    r: bytes


class _MasterKey(msgspec.Struct, frozen=True):
    mac: _Mac
    encrypt: bytes


def new_key_file(
    master: SecretKey, password: str, *, created: datetime, username: str, hostname: str, scrypt: Scrypt
) -> bytes:
    """The content of a key file that opens with `password`."""
    salt = secrets.token_bytes(_SALT_LENGTH)
    text = encode_master_key(master)
    return go_json.encode(
        KeyFile(
            created=go_json.format_time(created),
            username=username,
            hostname=hostname,
            kdf="scrypt",
            n=scrypt.n,
            r=scrypt.r,
            p=scrypt.p,
            salt=salt,
            data=bytes(seal(_derive(password, salt, scrypt), text)),
        )
    )


def encode_master_key(master: SecretKey) -> bytes:
    """The text that a key file holds, sealed: enough to read everything. Show it to nobody."""
    return go_json.encode(_MasterKey(_Mac(master.mac_k, master.mac_r), master.encrypt))


def decode_key_file(content: bytes) -> KeyFile:
    """A key file's fields.

    Raises:
        IntegrityError: this is not a key file, or asks for more than a sane cost.
    """
    file = go_json.decode(content, KeyFile, "a key file")
    power_of_two = file.n > 1 and file.n & (file.n - 1) == 0
    sane = file.r >= 1 and file.p >= 1 and _memory(file) <= _MOST_MEMORY and file.n * file.r * file.p <= _MOST_WORK
    if file.kdf != "scrypt" or not power_of_two or not sane or len(file.salt) != _SALT_LENGTH:
        raise IntegrityError("cannot read a key file: its key derivation is unknown or out of bounds")
    return file


def open_key_file(file: KeyFile, password: str) -> SecretKey | None:
    """The master key, or None if `password` is not this key's.

    Raises:
        IntegrityError: the password fits, yet what is inside is no master key.
    """
    derived = _derive(password, file.salt, Scrypt(file.n, file.r, file.p))
    try:
        text = open_sealed(derived, file.data)
    except IntegrityError:
        return None
    master = go_json.decode(text, _MasterKey, "the master key in a key file")
    return SecretKey(master.encrypt, master.mac.k, master.mac.r)


def _derive(password: str, salt: bytes, cost: Scrypt) -> SecretKey:
    secret = password.encode("utf-8", "surrogateescape")
    memory = _memory(cost) + (1 << 20)
    try:
        text = hashlib.scrypt(secret, salt=salt, n=cost.n, r=cost.r, p=cost.p, maxmem=memory, dklen=64)
    except ValueError as error:  # n is bounded by r, too
        raise IntegrityError("cannot read a key file: its key derivation is out of bounds") from error
    return SecretKey(text[:32], text[32:48], text[48:])


def _memory(cost: Scrypt | KeyFile) -> int:
    return 128 * cost.r * (cost.n + cost.p + 2)
