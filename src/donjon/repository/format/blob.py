# SPDX-License-Identifier: Apache-2.0
"""Blobs: the pieces that packs are made of, and where one lies within its pack."""

from __future__ import annotations

import hashlib
import re
from enum import IntEnum
from typing import NamedTuple

from donjon.errors import IntegrityError

Buffer = bytes | bytearray | memoryview

ID_LENGTH = 32


class BlobType(IntEnum):
    """What a blob holds: a piece of a file, or a directory."""

    DATA = 0
    TREE = 1


class PackedBlob(NamedTuple):
    """A blob within a pack.

    `id` is the SHA-256 of the plaintext (32 bytes). `offset` and `length` (of the sealed form) are in bytes;
    `uncompressed_length` is 0 where the blob is not compressed.
    """

    id: bytes
    type: BlobType
    offset: int
    length: int
    uncompressed_length: int


_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)


def parse_id(text: str) -> bytes:
    """An id from its hex form.

    Raises:
        IntegrityError: it is not 64 lower-case hex digits.
    """
    if not _ID.fullmatch(text):
        raise IntegrityError(f"cannot read an id: {text[:70]!r} is not 64 hex digits")
    return bytes.fromhex(text)


def blob_id(plaintext: Buffer) -> bytes:
    """The blob's id."""
    return hashlib.sha256(plaintext).digest()
