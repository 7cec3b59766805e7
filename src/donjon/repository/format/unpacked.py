# SPDX-License-Identifier: Apache-2.0
"""The framing of index, snapshot and lock files: a version byte and zstd around JSON, or JSON alone as of old.

Source: restic internal/repository/repository.go, SaveUnpacked.
"""

from __future__ import annotations

from donjon.errors import IntegrityError
from donjon.repository.format.compression import compress_small, decompress_unsized

_COMPRESSED = b"\x02"
_MOST = 1 << 30


def frame(text: bytes) -> bytes:
    """What to seal, for a file that says `text`."""
    return _COMPRESSED + compress_small(text)


def unframe(plaintext: bytes) -> bytes:
    """The JSON text of an opened file.

    Raises:
        IntegrityError: it is neither compressed in a known way nor plain JSON.
    """
    if plaintext[:1] in (b"{", b"["):
        return plaintext
    if plaintext[:1] == _COMPRESSED:
        return decompress_unsized(memoryview(plaintext)[1:], _MOST)
    raise IntegrityError("cannot read a file of the repository: its framing is unknown")
