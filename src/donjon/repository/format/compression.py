# SPDX-License-Identifier: Apache-2.0
"""Compression of blobs and of the repository's own files: the one module that knows the zstd library.

Source: restic design.rst, "Repository Version 2"; RFC 8878.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import IO, cast

import zstandard

from donjon.errors import IntegrityError

Buffer = bytes | bytearray | memoryview

FASTEST = 1
STRONGEST = 19

_PROBES = 4
_PROBE_LENGTH = 4096
_HOPELESS = 0.97
_PART = 1 << 20


class Compressor:
    """Compresses one buffer at a time; for use by one thread.

    Level 1 is tuned for blocks of disks: matches of at least 6 bytes within 256 KiB, found by a larger table. Next to
    zstd's own level 1 that is 2 % smaller at the same speed (bench/RESULTS.md, "Choice of the compression level").

    Args:
        level: 1 (fast) to 19 (small).
    """

    def __init__(self, level: int) -> None:
        if not FASTEST <= level <= STRONGEST:
            raise ValueError(f"compression level {level} is not one of {FASTEST}..{STRONGEST}")
        tuned = {"window_log": 18, "hash_log": 16, "min_match": 6} if level == FASTEST else {}
        parameters = zstandard.ZstdCompressionParameters.from_level(level, source_size=1 << 19, **tuned)
        self._compressor = zstandard.ZstdCompressor(compression_params=parameters)
        self._prober = zstandard.ZstdCompressor(level=FASTEST)

    def compress(self, plaintext: Buffer) -> bytes | None:
        """A zstd frame, or None if there is nothing to be gained."""
        if self._hopeless(plaintext):
            return None
        compressed = self._compressor.compress(plaintext)
        return compressed if len(compressed) < len(plaintext) else None

    def _hopeless(self, plaintext: Buffer) -> bool:
        """Whether samples from all over the buffer say that it does not compress."""
        size = len(plaintext)
        if size < _PROBES * _PROBE_LENGTH * 4:
            return False
        view = memoryview(plaintext)
        step = size // _PROBES
        sample = b"".join(view[at : at + _PROBE_LENGTH] for at in range(step // 2, size, step))
        return len(self._prober.compress(sample)) > len(sample) * _HOPELESS


def compress_small(plaintext: Buffer) -> bytes:
    """A zstd frame at zstd's default level, whether smaller or not: for the repository's own files."""
    return zstandard.ZstdCompressor(level=3).compress(plaintext)


def decompress(compressed: Buffer, length: int) -> bytes:
    """The plaintext of a frame that must hold exactly `length` bytes.

    Raises:
        IntegrityError: it does not, or is not a zstd frame.
    """
    try:
        # The library would trust the frame's own word for its length, and ask for that much memory.
        if zstandard.frame_content_size(compressed) not in (-1, length):
            raise IntegrityError(f"cannot decompress data: it is not of the {length} bytes that were promised")
        plaintext = zstandard.ZstdDecompressor().decompress(compressed, max_output_size=length)
    except zstandard.ZstdError as error:
        raise IntegrityError(f"cannot decompress data: {error}") from error
    if len(plaintext) != length:
        raise IntegrityError(f"cannot decompress data: {len(plaintext)} bytes where {length} were promised")
    return plaintext


def decompress_unsized(compressed: Buffer, limit: int) -> bytes:
    """The plaintext of a frame of unknown length, at most `limit` bytes.

    Raises:
        IntegrityError: it is longer, or not a zstd frame.
    """
    plaintext = bytearray()
    for part in decompress_parts([compressed]):
        plaintext += part
        if len(plaintext) > limit:
            raise IntegrityError(f"cannot decompress data: it is larger than {limit} bytes")
    return bytes(plaintext)


def decompress_parts(compressed: Iterable[Buffer]) -> Iterator[bytes]:
    """The plaintext of a frame that comes in parts; in parts of at most 1 MiB, however well it was compressed.

    A frame that is cut short gives a shorter plaintext: whoever calls this knows its hash, or parses it.

    Raises:
        IntegrityError: it is not a zstd frame.
    """
    reader = zstandard.ZstdDecompressor().stream_reader(cast("IO[bytes]", _Parts(compressed)))
    try:
        while part := reader.read(_PART):
            yield part
    except zstandard.ZstdError as error:
        raise IntegrityError(f"cannot decompress data: {error}") from error


class _Parts:
    """A byte string that comes in parts, as a file for the zstd library, which needs never to get more than it asks."""

    def __init__(self, parts: Iterable[Buffer]) -> None:
        self._parts = filter(len, parts)
        self._left = memoryview(b"")

    def read(self, size: int) -> bytes:
        if not self._left:
            self._left = memoryview(next(self._parts, b""))
        part, self._left = self._left[:size], self._left[size:]
        return bytes(part)


class CompressionStream:
    """Compresses a text that comes in parts."""

    def __init__(self) -> None:
        self._stream = zstandard.ZstdCompressor(level=FASTEST).compressobj()

    def update(self, plaintext: Buffer) -> bytes:
        """What can be said so far; may be empty."""
        return self._stream.compress(plaintext)

    def finish(self) -> bytes:
        """The rest."""
        return self._stream.flush()
