# SPDX-License-Identifier: Apache-2.0
"""Index files: which blobs are in which packs.

Source: restic design.rst, "Indexing"; rustic's two-phase delete for `packs_to_delete`.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from donjon.errors import IntegrityError
from donjon.repository.format import go_json
from donjon.repository.format.blob import BlobType, PackedBlob, parse_id

_TYPES = {"data": BlobType.DATA, "tree": BlobType.TREE}
_MOST_U32 = (1 << 32) - 1


class IndexedBlob(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A blob as an index file lists it; `id` in hex."""

    id: str
    type: str
    offset: int
    length: int
    uncompressed_length: int = 0


class IndexedPack(msgspec.Struct, frozen=True, gc=False):
    """A pack as an index file lists it; `id` in hex."""

    id: str
    blobs: list[IndexedBlob]


class _IndexFile(msgspec.Struct, frozen=True):
    packs: list[IndexedPack]


def encode_index(packs: Iterable[tuple[bytes, Iterable[PackedBlob]]]) -> bytes:
    """The text of an index file, from pack ids and the blobs of each."""
    return go_json.encode(
        _IndexFile(
            [
                IndexedPack(
                    pack_id.hex(),
                    [
                        IndexedBlob(b.id.hex(), b.type.name.lower(), b.offset, b.length, b.uncompressed_length)
                        for b in blobs
                    ],
                )
                for pack_id, blobs in packs
            ]
        )
    )


def decode_index(text: bytes) -> list[IndexedPack]:
    """The packs of an index file, ids still in hex. Packs that rustic marked for deletion are left out.

    Raises:
        IntegrityError: this is not an index.
    """
    return go_json.decode(text, _IndexFile, "an index file").packs


def packed_blobs(pack: IndexedPack) -> list[PackedBlob]:
    """The blobs of an indexed pack, parsed.

    Raises:
        IntegrityError: an id, type or length makes no sense.
    """
    try:
        return [
            PackedBlob(parse_id(b.id), _TYPES[b.type], _u32(b.offset), _u32(b.length), _u32(b.uncompressed_length))
            for b in pack.blobs
        ]
    except (KeyError, ValueError) as error:
        raise IntegrityError(f"cannot read an index file: {error} in the entry of pack {pack.id[:16]}") from error


def _u32(value: int) -> int:
    if not 0 <= value <= _MOST_U32:
        raise ValueError(f"number {value}")
    return value
