# SPDX-License-Identifier: Apache-2.0
"""Packs read in full and proven: the name, the header and every blob, whatever their size, in little memory."""

from __future__ import annotations

import hashlib
import random
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from donjon.errors import ConfigError, IntegrityError, StoreError
from donjon.repository.blob_index import Location
from donjon.repository.format.blob import PackedBlob
from donjon.repository.format.pack import TRAILER_LENGTH, decode_header, decode_trailer
from donjon.repository.reader import stream_blob
from donjon.repository.repository import Repository
from donjon.repository.store import FileName, FileType

_PART = 4 << 20
_LARGE_BLOB = 16 << 20
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


@dataclass(frozen=True, slots=True)
class Subset:
    """Which packs a check reads: one bucket of several (numbered from 1), a fraction, or so many bytes; else all."""

    bucket: tuple[int, int] | None = None
    fraction: float | None = None
    size: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """A subset as restic writes it: "2/7", "12.5%" or "50G".

        Raises:
            ConfigError: it is none of these.
        """
        if match := re.fullmatch(r"(\d{1,3})/(\d{1,3})", text, re.ASCII):
            number, of = int(match[1]), int(match[2])
            if 1 <= number <= of <= 256:
                return cls(bucket=(number, of))
        elif match := re.fullmatch(r"(\d{1,3}(?:\.\d+)?)%", text, re.ASCII):
            if 0 < float(match[1]) <= 100:
                return cls(fraction=float(match[1]) / 100)
        elif (match := re.fullmatch(r"(\d{1,15})([kmgt]?)b?", text.lower(), re.ASCII)) and int(match[1]):
            return cls(size=int(match[1]) * _UNITS[match[2]])
        raise ConfigError(
            f"cannot read a subset of the data: {text!r} makes no sense",
            hint='give "2/7" (the second of seven parts, at most 256), "12.5%" or "50G"',
        )

    def choose(self, packs: Mapping[bytes, int]) -> list[bytes]:
        """Packs, from ids and sizes. A fraction and a size are chosen at random, and are never none."""
        if self.bucket:
            number, of = self.bucket
            return [pack for pack in packs if pack[0] % of == number - 1]
        fraction = self.fraction
        if self.size is not None:
            fraction = min(1.0, self.size / max(1, sum(packs.values())))
        if fraction is None:
            return list(packs)
        return random.SystemRandom().sample(list(packs), min(len(packs), max(1, int(len(packs) * fraction))))


@dataclass(frozen=True, slots=True)
class PackVerdict:
    """What reading a pack in full has shown.

    `faults` are reasons why the file is not what it should be. `lost` are the blobs that do not open where they were
    said to be, `sound` those that do. `header` is what the pack says of itself; None if that cannot be read.
    """

    faults: tuple[str, ...]
    lost: tuple[PackedBlob, ...]
    sound: tuple[PackedBlob, ...]
    header: tuple[PackedBlob, ...] | None


def read_pack(
    repository: Repository,
    pack: bytes,
    size: int,
    blobs: Sequence[PackedBlob] | None,
    progress: Callable[[int], None] = lambda _: None,
) -> PackVerdict:
    """Read a pack of `size` bytes and prove it: the blobs that the index has in it, or if None, those of its header.

    `progress` is called with the number of bytes read since the last call.

    Raises:
        StoreError: the pack cannot be read at all.
    """
    header: tuple[PackedBlob, ...] | None = None
    faults = []
    try:
        header = tuple(read_header(repository, pack, size))
    except IntegrityError as error:
        faults.append(f"its header is damaged ({error})")
    reading = _Reading(repository, pack, size, (header or ()) if blobs is None else blobs)
    if not reading.run(progress):
        faults.insert(0, "its content is not what its name promises")
    if blobs is not None and header is not None and sorted(header) != sorted(blobs):
        faults.append("its header is not what the index says")
    if reading.lost:
        faults.append(f"blobs that do not open: {len(reading.lost)} of {len(reading.lost) + len(reading.sound)}")
    return PackVerdict(tuple(faults), tuple(reading.lost), tuple(reading.sound), header)


def read_header(repository: Repository, pack: bytes, size: int) -> list[PackedBlob]:
    """The blobs of a pack of `size` bytes, by its header alone.

    Raises:
        IntegrityError: it is damaged.
        StoreError: it cannot be read.
    """
    name = FileName(FileType.PACK, pack.hex())
    if size < TRAILER_LENGTH:
        raise IntegrityError(f"cannot read a pack: {size} bytes are too few")
    length = decode_trailer(repository.store.load(name, size - TRAILER_LENGTH, TRAILER_LENGTH), size)
    sealed = repository.store.load(name, size - TRAILER_LENGTH - length, length)
    return decode_header(repository.key, sealed, size)


class _Reading:
    """One pass over a pack; blobs too large to be held are read once more, in parts."""

    def __init__(self, repository: Repository, pack: bytes, size: int, blobs: Sequence[PackedBlob]) -> None:
        self.lost: list[PackedBlob] = []
        self.sound: list[PackedBlob] = []
        self._repository = repository
        self._pack = pack
        self._size = size
        self._blobs = sorted(blobs, key=lambda blob: blob.offset)

    def run(self, progress: Callable[[int], None]) -> bool:
        """Prove all blobs; returns whether the pack's bytes hash to its name."""
        name = FileName(FileType.PACK, self._pack.hex())
        digest = hashlib.sha256()
        small = deque(blob for blob in self._blobs if blob.length <= _LARGE_BLOB)
        window, start = b"", 0
        for at in range(0, self._size, _PART):
            part = self._repository.store.load(name, at, min(_PART, self._size - at))
            digest.update(part)
            window += part
            end = at + len(part)
            while small and small[0].offset + small[0].length <= end:
                self._prove(small.popleft(), window, start)
            keep_from = min(small[0].offset, end) if small else end
            window, start = window[keep_from - start :], keep_from
            progress(len(part))
        self.lost += small
        for blob in self._blobs:
            if blob.length > _LARGE_BLOB:
                self._prove_large(blob)
        return digest.digest() == self._pack

    def _prove(self, blob: PackedBlob, window: bytes, start: int) -> None:
        sealed = memoryview(window)[blob.offset - start : blob.offset - start + blob.length]
        try:
            self._repository.open_blob(blob.id, self._location(blob), sealed)
        except IntegrityError:
            self.lost.append(blob)
        else:
            self.sound.append(blob)

    def _prove_large(self, blob: PackedBlob) -> None:
        try:
            for _ in stream_blob(self._repository, blob.id, self._location(blob)):
                pass
        except (IntegrityError, StoreError):
            self.lost.append(blob)
        else:
            self.sound.append(blob)

    def _location(self, blob: PackedBlob) -> Location:
        return Location(self._pack, blob.offset, blob.length, blob.uncompressed_length)
