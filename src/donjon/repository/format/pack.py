# SPDX-License-Identifier: Apache-2.0
"""Pack files: sealed blobs one after the other, a sealed header that lists them, the header's length.

Source: restic design.rst, "Pack Format".
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from donjon.errors import IntegrityError
from donjon.repository.format.blob import BlobType, PackedBlob
from donjon.repository.format.crypto import OVERHEAD, Buffer, SecretKey, open_sealed, seal

_PLAIN = struct.Struct("<BI32s")
_COMPRESSED = struct.Struct("<BII32s")
_LENGTH = struct.Struct("<I")
_COMPRESSED_BIT = 2
MOST_HEADER = 16 << 20

TRAILER_LENGTH = _LENGTH.size


def encode_header(key: SecretKey, blobs: Iterable[PackedBlob]) -> bytes:
    """What follows the blobs: the sealed header and its length. Offsets are implied by the order."""
    entries = bytearray()
    for blob in blobs:
        if blob.uncompressed_length:
            kind = blob.type | _COMPRESSED_BIT
            entries += _COMPRESSED.pack(kind, blob.length, blob.uncompressed_length, blob.id)
        else:
            entries += _PLAIN.pack(blob.type, blob.length, blob.id)
    sealed = seal(key, entries)
    return bytes(sealed) + _LENGTH.pack(len(sealed))


def header_length(blobs: Iterable[PackedBlob]) -> int:
    """Bytes that `encode_header` gives for these blobs."""
    entries = sum(_COMPRESSED.size if blob.uncompressed_length else _PLAIN.size for blob in blobs)
    return entries + OVERHEAD + TRAILER_LENGTH


def decode_trailer(trailer: Buffer, pack_size: int) -> int:
    """The length of the sealed header, from the last four bytes of a pack of `pack_size` bytes.

    Raises:
        IntegrityError: no header of that length fits.
    """
    length = int.from_bytes(trailer, "little") if len(trailer) == TRAILER_LENGTH else 0
    if not OVERHEAD + _PLAIN.size <= length <= min(MOST_HEADER, pack_size - TRAILER_LENGTH):
        raise IntegrityError(f"cannot read a pack: its header claims {length} bytes")
    return length


def decode_header(key: SecretKey, sealed: Buffer, pack_size: int) -> list[PackedBlob]:
    """The blobs of a pack of `pack_size` bytes, in order.

    Raises:
        IntegrityError: the header is damaged, or its blobs do not fill the pack exactly.
    """
    entries = memoryview(open_sealed(key, sealed))
    blobs = []
    offset = at = 0
    while at < len(entries):
        blob, at = _decode_entry(entries, at, offset)
        offset += blob.length
        blobs.append(blob)
    if offset + len(sealed) + TRAILER_LENGTH != pack_size:
        raise IntegrityError(f"cannot read a pack: its blobs end at {offset}, its header does not begin there")
    return blobs


def _decode_entry(entries: memoryview, at: int, offset: int) -> tuple[PackedBlob, int]:
    kind = entries[at]
    if kind not in (0, 1, 2, 3):
        raise IntegrityError(f"cannot read a pack: its header has an entry of unknown kind {kind}")
    layout = _COMPRESSED if kind & _COMPRESSED_BIT else _PLAIN
    if len(entries) - at < layout.size:
        raise IntegrityError("cannot read a pack: its header ends within an entry")
    _, length, *rest = layout.unpack_from(entries, at)
    uncompressed = rest[0] if kind & _COMPRESSED_BIT else 0
    if length < OVERHEAD or (kind & _COMPRESSED_BIT and not uncompressed):
        raise IntegrityError("cannot read a pack: its header has an entry of impossible length")
    return PackedBlob(rest[-1], BlobType(kind & 1), offset, length, uncompressed), at + layout.size
