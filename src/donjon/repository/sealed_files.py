# SPDX-License-Identifier: Apache-2.0
"""Index, snapshot and lock files: sealed JSON, each named by the hash of what is stored."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass

from donjon.errors import FileExistsInStoreError, IntegrityError
from donjon.repository.format.crypto import SecretKey, open_sealed, seal
from donjon.repository.format.unpacked import frame, unframe
from donjon.repository.store import FileName, FileType, Store


@dataclass(frozen=True, slots=True)
class SealedFiles:
    """The sealed files of one repository; those of version 1 are not compressed."""

    store: Store
    key: SecretKey
    compressed: bool = True

    def save(self, type: FileType, text: bytes) -> str:
        """Keep a text; returns the file's name. Raises StoreError."""
        sealed = seal(self.key, frame(text) if self.compressed else text)
        name = hashlib.sha256(sealed).hexdigest()
        with suppress(FileExistsInStoreError):  # the nonce is random: the same name is the same file, saved before
            self.store.save(FileName(type, name), [sealed])
        return name

    def load(self, type: FileType, name: str) -> bytes:
        """The text of a file.

        Raises:
            IntegrityError: it is damaged.
            StoreError: it cannot be had.
        """
        sealed = self.store.load(FileName(type, name))
        if hashlib.sha256(sealed).hexdigest() != name:
            raise IntegrityError(f"cannot read {FileName(type, name)}: the file is damaged")
        try:
            return unframe(open_sealed(self.key, sealed))
        except IntegrityError as error:
            raise IntegrityError(f"cannot read {FileName(type, name)}: {error}") from error
