# SPDX-License-Identifier: Apache-2.0
"""Where every blob of the repository is: ten million of them in half a gigabyte."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from donjon.errors import IntegrityError
from donjon.repository.allocator import give_back_memory
from donjon.repository.format.blob import ID_LENGTH, BlobType, PackedBlob
from donjon.repository.format.crypto import OVERHEAD
from donjon.repository.format.index_file import IndexedPack

# A blob takes one row of 48 bytes: the first 8 of its id as a number to sort by, and the rest.
_KEY = np.dtype(np.uint64)
_REST = np.dtype(
    [("tail", "V24"), ("pack", np.uint32), ("offset", np.uint32), ("length", np.uint32), ("plain", np.uint32)]
)
_ROW = struct.Struct("=24s4I")
_SHELVES = 256
_MOST_RECENT = 256
_MANY = 64
_TRIM_EVERY = 16
_TREE_BIT = 1 << 31
_TYPES = {"data": 0, "tree": _TREE_BIT}


class Location(NamedTuple):
    """Where a blob is; as PackedBlob, with the pack's id (32 bytes)."""

    pack: bytes
    offset: int
    length: int
    uncompressed_length: int


class BlobIndex:
    """Finds blobs by type and id. Not thread-safe: whoever shares one guards it.

    Ids are hashes, so their first byte spreads them evenly over shelves. A shelf is a sorted array, and a small dict
    of the latest arrivals that is merged in when it has grown.
    """

    def __init__(self) -> None:
        self._packs: list[bytes] = []
        self._pack_numbers: dict[bytes, int] = {}
        self._shelves = [_Shelf() for _ in range(_SHELVES)]
        self._loaded = 0
        self._lost: set[int] = set()  # numbers of packs that are not there

    def __len__(self) -> int:
        return sum(len(shelf) for shelf in self._shelves)

    @property
    def packs(self) -> frozenset[bytes]:
        """Ids of all packs that blobs are in."""
        return frozenset(self._packs)

    def has(self, type: BlobType, blob: bytes) -> bool:
        """Whether the repository holds the blob."""
        return next(self.locations(type, blob), None) is not None

    def locations(self, type: BlobType, blob: bytes) -> Iterator[Location]:
        """Every place where the blob is; usually one."""
        bit = _TREE_BIT if type is BlobType.TREE else 0
        for pack, offset, length, plain in self._shelves[blob[0]].find(blob):
            if pack & _TREE_BIT == bit and pack & ~_TREE_BIT not in self._lost:
                yield Location(self._packs[pack & ~_TREE_BIT], offset, length, plain)

    def rows(self, type: BlobType, ids: bytes) -> NDArray[np.int64]:
        """For each of many packed ids, the number of a row that has it; -1 if there is none.

        Rows are numbered from 0 to len(self) - 1, anew after every `add` or `load`.
        """
        return self._match(type, ids, self._starts())

    def missing(self, type: BlobType, ids: bytes) -> list[int]:
        """Which of many packed ids are in no pack that is there: their places in `ids`, ascending."""
        doubtful: Iterable[int] = range(len(ids) // ID_LENGTH)
        if len(ids) >= _MANY * ID_LENGTH and not self._lost:
            doubtful = np.flatnonzero(self._match(type, ids, np.zeros(_SHELVES, np.int64)) < 0).tolist()
        return [at for at in doubtful if not self.has(type, ids[at * ID_LENGTH : (at + 1) * ID_LENGTH])]

    def _match(self, type: BlobType, ids: bytes, starts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers of rows, counted from their shelf's start; -1 for what is in none or has just arrived."""
        wanted = np.frombuffer(ids, np.uint8).reshape(-1, ID_LENGTH)
        found = np.full(len(wanted), -1, np.int64)
        bit = _TREE_BIT if type is BlobType.TREE else 0
        order = np.argsort(wanted[:, 0], kind="stable")
        ends = np.cumsum(np.bincount(wanted[:, 0], minlength=_SHELVES))
        for number in np.unique(wanted[:, 0]).tolist():
            chosen = order[ends[number - 1] if number else 0 : ends[number]]
            rows = self._shelves[number].match(wanted[chosen], bit)
            found[chosen] = np.where(rows >= 0, rows + starts[number], -1)
        return found

    def totals(self, marked: NDArray[np.bool_]) -> tuple[int, int]:
        """Bytes that the marked rows' blobs take up, and that they are of plaintext."""
        stored = plain = 0
        starts = self._starts()
        for number, shelf in enumerate(self._shelves):
            rows = shelf.rows[marked[starts[number] : starts[number + 1]]]
            stored += int(rows["length"].sum(dtype=np.uint64))
            lengths = np.where(rows["plain"], rows["plain"], rows["length"] - np.uint32(OVERHEAD))
            plain += int(lengths.sum(dtype=np.uint64))
        return stored, plain

    def _starts(self) -> NDArray[np.int64]:
        return np.cumsum([0, *(len(shelf.rows) for shelf in self._shelves)], dtype=np.int64)

    def forget(self, packs: Iterable[bytes]) -> None:
        """Find nothing in these packs any more."""
        self._lost.update(self._pack_numbers[pack] for pack in packs)

    def add(self, pack: bytes, blobs: Iterable[PackedBlob]) -> None:
        """Take up a pack that has just been saved."""
        number = self._number(pack)
        for blob in blobs:
            bit = _TREE_BIT if blob.type is BlobType.TREE else 0
            row = (number | bit, blob.offset, blob.length, blob.uncompressed_length)
            self._shelves[blob.id[0]].add(blob.id, row)

    def load(self, packs: Iterable[IndexedPack]) -> None:
        """Take up a whole index file at once.

        Raises:
            IntegrityError: an id, type or length in it makes no sense.
        """
        packs = list(packs)
        blobs = [blob for pack in packs for blob in pack.blobs]
        try:
            ids = np.frombuffer(bytes.fromhex("".join([blob.id for blob in blobs])), np.uint8).reshape(-1, ID_LENGTH)
            if len(ids) != len(blobs):
                raise ValueError("an id is not 64 hex digits")
            rows = np.empty(len(blobs), _REST)
            numbers = [self._number(bytes.fromhex(pack.id)) for pack in packs]
            rows["pack"] = np.repeat(np.array(numbers, np.uint32), [len(pack.blobs) for pack in packs])
            rows["pack"] |= np.array([_TYPES[blob.type] for blob in blobs], np.uint32)
            rows["offset"] = np.array([blob.offset for blob in blobs], np.uint32)
            rows["length"] = np.array([blob.length for blob in blobs], np.uint32)
            rows["plain"] = np.array([blob.uncompressed_length for blob in blobs], np.uint32)
        except (ValueError, KeyError, OverflowError) as error:
            raise IntegrityError(f"cannot read an index file: {error}") from error
        rows["tail"] = np.ascontiguousarray(ids[:, 8:]).view("V24").ravel()
        keys = np.ascontiguousarray(ids[:, :8]).view(">u8").ravel().astype(_KEY)
        self._shelve(ids[:, 0], keys, rows)
        self._loaded += 1
        if self._loaded % _TRIM_EVERY == 0:
            give_back_memory()

    def sort(self) -> None:
        """Bring what was loaded into order now, rather than at the first look-up, in little more memory."""
        for number, shelf in enumerate(self._shelves):
            shelf.sort()
            if number % _TRIM_EVERY == 0:
                give_back_memory()
        give_back_memory()

    def _shelve(self, shelf_of: NDArray[np.uint8], keys: NDArray[np.uint64], rows: NDArray[np.void]) -> None:
        order = np.argsort(shelf_of, kind="stable")
        keys, rows = keys[order], rows[order]
        ends = np.cumsum(np.bincount(shelf_of, minlength=_SHELVES))
        start = 0
        for shelf, end in zip(self._shelves, ends.tolist(), strict=True):
            if end > start:
                shelf.extend(keys[start:end], rows[start:end])
            start = end

    def _number(self, pack: bytes) -> int:
        number = self._pack_numbers.get(pack)
        if number is None:
            if len(pack) != ID_LENGTH:
                raise ValueError("a pack's id is not 64 hex digits")
            number = self._pack_numbers[pack] = len(self._packs)
            self._packs.append(pack)
        return number


_Row = tuple[int, int, int, int]


class _Shelf:
    """Blobs whose ids begin with the same byte."""

    __slots__ = ("_keys", "_recent", "_rows", "_unsorted")

    def __init__(self) -> None:
        self._keys = np.empty(0, _KEY)
        self._rows = np.empty(0, _REST)
        self._unsorted: list[tuple[NDArray[np.uint64], NDArray[np.void]]] = []
        self._recent: dict[bytes, list[_Row]] = {}

    def __len__(self) -> int:
        return len(self._keys) + sum(len(k) for k, _ in self._unsorted) + sum(map(len, self._recent.values()))

    def add(self, blob: bytes, row: _Row) -> None:
        self._recent.setdefault(blob, []).append(row)
        if len(self._recent) >= _MOST_RECENT:
            self._merge_recent()

    def extend(self, keys: NDArray[np.uint64], rows: NDArray[np.void]) -> None:
        # Copies, so that the shelf does not keep the whole index file alive.
        self._unsorted.append((keys.copy(), rows.copy()))

    def find(self, blob: bytes) -> Iterator[_Row]:
        self.sort()
        yield from self._recent.get(blob, ())
        key = int.from_bytes(blob[:8], "big")
        keys, rows = self._keys, self._rows
        at = int(keys.searchsorted(np.uint64(key)))
        while at < len(keys) and int(keys[at]) == key:
            tail, *row = _ROW.unpack(rows[at].tobytes())
            if tail == blob[8:]:
                yield row[0], row[1], row[2], row[3]
            at += 1

    @property
    def rows(self) -> NDArray[np.void]:
        """All rows, sorted."""
        if self._recent:
            self._merge_recent()
        self.sort()
        return self._rows

    def match(self, ids: NDArray[np.uint8], type_bit: int) -> NDArray[np.int64]:
        """For each id the number of a row of this type, -1 where there is none but among the latest arrivals."""
        self.sort()
        rows = self._rows
        found = np.full(len(ids), -1, np.int64)
        wanted = np.ascontiguousarray(ids[:, :8]).view(">u8").ravel().astype(_KEY)
        tails = np.ascontiguousarray(ids[:, 8:]).view("V24").ravel()
        at = np.searchsorted(self._keys, wanted)
        open_ = np.arange(len(ids))
        while len(open_):  # once, but for blobs in several packs and keys that collide
            open_ = open_[at[open_] < len(rows)]
            open_ = open_[self._keys[at[open_]] == wanted[open_]]
            candidates = rows[at[open_]]
            same = (candidates["tail"] == tails[open_]) & (candidates["pack"] & _TREE_BIT == type_bit)
            found[open_[same]] = at[open_[same]]
            open_ = open_[~same]
            at[open_] += 1
        return found

    def _merge_recent(self) -> None:
        recent = [(blob, row) for blob, rows in self._recent.items() for row in rows]
        keys = np.array([int.from_bytes(blob[:8], "big") for blob, _ in recent], _KEY)
        rows = np.array([(blob[8:], *row) for blob, row in recent], _REST)
        self._recent = {}
        self._unsorted.append((keys, rows))
        self.sort()

    def sort(self) -> None:
        if not self._unsorted:
            return
        keys = np.concatenate([self._keys, *(keys for keys, _ in self._unsorted)])
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._rows = np.concatenate([self._rows, *(rows for _, rows in self._unsorted)])[order]
        self._unsorted = []
