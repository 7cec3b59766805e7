# SPDX-License-Identifier: Apache-2.0
"""Blobs: the pieces that packs are made of, and where one lies within its pack."""

from __future__ import annotations

import hashlib
from enum import IntEnum
from typing import NamedTuple

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


def blob_id(plaintext: Buffer) -> bytes:
    """The blob's id."""
    return hashlib.sha256(plaintext).digest()
