# SPDX-License-Identifier: Apache-2.0
"""Sealing and opening: AES-256-CTR for secrecy, Poly1305-AES for authenticity.

A sealed text is nonce (16 bytes) || ciphertext || tag (16 bytes). The tag covers the ciphertext alone, so what
binds a text to its place is its SHA-256, which every reader must check after opening.

Source: restic design.rst, "Keys, Encryption and MAC".
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR, ECB
from cryptography.hazmat.primitives.poly1305 import Poly1305

from donjon.errors import IntegrityError

NONCE_LENGTH = 16
TAG_LENGTH = 16
OVERHEAD = NONCE_LENGTH + TAG_LENGTH

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True, repr=False)
class SecretKey:
    """A pair of keys: `encrypt` (32 bytes) for AES, `mac_k` and `mac_r` (16 bytes each) for Poly1305-AES.

    Raises:
        IntegrityError: a part has the wrong length or is all zeros.
    """

    encrypt: bytes
    mac_k: bytes
    mac_r: bytes

    def __post_init__(self) -> None:
        lengths = (len(self.encrypt), len(self.mac_k), len(self.mac_r))
        if lengths != (32, 16, 16) or not (any(self.encrypt) and any(self.mac_k) and any(self.mac_r)):
            raise IntegrityError("cannot use a key of the repository: it is malformed")

    @classmethod
    def generate(cls) -> SecretKey:
        """A new random key."""
        return cls(secrets.token_bytes(32), secrets.token_bytes(16), secrets.token_bytes(16))

    def cipher(self, nonce: Buffer) -> Cipher[CTR]:
        """What encrypts and decrypts the text of this nonce."""
        return Cipher(AES(self.encrypt), CTR(bytes(nonce)))

    def authenticator(self, nonce: Buffer) -> Poly1305:
        """What makes the tag of the ciphertext of this nonce."""
        block = Cipher(AES(self.mac_k), ECB()).encryptor().update(bytes(nonce))  # noqa: S305 (one block: Poly1305-AES)
        return Poly1305(self.mac_r + block)


def seal(key: SecretKey, plaintext: Buffer) -> bytearray:
    """The sealed form of `plaintext`, OVERHEAD bytes longer."""
    nonce = secrets.token_bytes(NONCE_LENGTH)
    sealed = bytearray(len(plaintext) + OVERHEAD)
    view = memoryview(sealed)
    view[:NONCE_LENGTH] = nonce
    # The room for the tag also serves as the spare bytes that `update_into` asks for.
    length = key.cipher(nonce).encryptor().update_into(plaintext, view[NONCE_LENGTH:])
    authenticator = key.authenticator(nonce)
    authenticator.update(view[NONCE_LENGTH : NONCE_LENGTH + length])
    view[-TAG_LENGTH:] = authenticator.finalize()
    return sealed


def open_sealed(key: SecretKey, sealed: Buffer) -> bytes:
    """The plaintext.

    Raises:
        IntegrityError: this is not what was sealed with `key`.
    """
    view = memoryview(sealed)
    opening = Opening(key, len(view))
    opening.authenticate(view)
    opening.verify()
    return opening.decrypt(view[NONCE_LENGTH:-TAG_LENGTH])


class Sealing:
    """Seals a text that comes in parts: what `begin`, `update` and `finish` give, joined, is the sealed text."""

    def __init__(self, key: SecretKey) -> None:
        self._nonce = secrets.token_bytes(NONCE_LENGTH)
        self._encryptor: CipherContext = key.cipher(self._nonce).encryptor()
        self._authenticator = key.authenticator(self._nonce)

    def begin(self) -> bytes:
        """The first bytes of the sealed text."""
        return self._nonce

    def update(self, plaintext: Buffer) -> bytes:
        """The next part, as many bytes as `plaintext` has."""
        ciphertext = self._encryptor.update(plaintext)
        self._authenticator.update(ciphertext)
        return ciphertext

    def finish(self) -> bytes:
        """The last bytes of the sealed text."""
        return self._authenticator.finalize()


class Opening:
    """Opens a sealed text that comes in parts, twice: all of it to `authenticate`, then again to `decrypt`.

    Nothing is decrypted before `verify` has passed.
    """

    def __init__(self, key: SecretKey, length: int) -> None:
        if length < OVERHEAD:
            raise IntegrityError(f"cannot open sealed data: {length} bytes are too few")
        self._key = key
        self._left = length
        self._head = b""
        self._tail = b""
        self._authenticator: Poly1305 | None = None
        self._decryptor: CipherContext | None = None

    def authenticate(self, part: Buffer) -> None:
        """Take the next part of the sealed text, nonce and tag included, in order."""
        view = memoryview(part)
        if self._authenticator is None:
            missing = NONCE_LENGTH - len(self._head)
            self._head += bytes(view[:missing])
            self._left -= len(view[:missing])
            view = view[missing:]
            if len(self._head) < NONCE_LENGTH:
                return
            self._authenticator = self._key.authenticator(self._head)
        text = view[: max(0, self._left - TAG_LENGTH)]
        self._authenticator.update(text)
        self._tail += bytes(view[len(text) :])
        self._left -= len(view)

    def verify(self) -> None:
        """Say whether all of it came, and is what was sealed.

        Raises:
            IntegrityError: it is not.
        """
        expected = self._authenticator.finalize() if self._authenticator else b""
        if self._left != 0 or not any(self._head) or not hmac.compare_digest(expected, self._tail):
            raise IntegrityError("cannot open sealed data: it is damaged, or was sealed with another key")
        self._decryptor = self._key.cipher(self._head).decryptor()

    def decrypt(self, ciphertext: Buffer) -> bytes:
        """The next part of the plaintext. Only after `verify`; without nonce and tag."""
        if self._decryptor is None:
            raise ValueError("decrypt before verify")
        return self._decryptor.update(ciphertext)


def seal_stream(key: SecretKey, parts: Iterable[Buffer]) -> Iterable[bytes]:
    """Seal a text that comes in parts, without ever holding it whole."""
    sealing = Sealing(key)
    yield sealing.begin()
    for part in parts:
        yield sealing.update(part)
    yield sealing.finish()
