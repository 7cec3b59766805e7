# SPDX-License-Identifier: Apache-2.0
"""The index built anew from the packs, and what can be saved of damaged packs stored once more.

Every step leaves a repository that is at least as good as before: what is sound is stored and indexed durably, before
anything that it replaces is put away. Damaged files are kept under the name ID.damaged where the store can rename
(see SetsAside); a store that cannot deletes them: what is left in them opens with no key.

Source: restic design.rst, "Indexing"; restic cmd/restic/cmd_repair_index.go, cmd_repair_packs.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from donjon import trace
from donjon.errors import FileMissingError, IntegrityError
from donjon.repository import lock
from donjon.repository.blob_index import BlobIndex, Location
from donjon.repository.format.blob import BlobType, PackedBlob, parse_id
from donjon.repository.format.index_file import decode_index, encode_index, packed_blobs
from donjon.repository.format.pack import header_length
from donjon.repository.ordered import map_ordered, worker_count
from donjon.repository.pack_reading import PackVerdict, read_header, read_pack
from donjon.repository.reader import stream_blob
from donjon.repository.repository import Repository
from donjon.repository.store import FileName, FileType, KeepsLeftovers, Store
from donjon.repository.writer import WriteOptions, Writer

_BLOBS_PER_INDEX = 50_000

_Entry = tuple[bytes, list[PackedBlob]]  # a pack and what is in it
_Claim = tuple[bytes, list[PackedBlob] | None]  # a pack and what an index file has in it; None: no index names it


@runtime_checkable
class SetsAside(Protocol):
    """A store that can take a file out of the repository and still keep its bytes."""

    def set_aside(self, file: FileName) -> str:
        """Give the file a name that no listing shows; returns it. Raises FileMissingError, StoreError."""
        ...


@dataclass(frozen=True, slots=True)
class SavedPack:
    """A damaged pack, and how many of its blobs were saved and lost."""

    id: str
    saved: int
    lost: int


@dataclass(slots=True)
class RepairReport:
    """What a repair did, or with `dry_run` would do; ids in hex.

    Packs were `adopted` because no readable index named them rightly, and dropped from the index because they are
    `missing`; `damaged` ones were put away after their blobs were stored anew. `unreadable` ones no index names and
    their header is damaged: they were left alone. Index files were `rewritten`, or put away because they are
    `unreadable_index`.
    """

    dry_run: bool
    adopted: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    damaged: list[SavedPack] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    rewritten: list[str] = field(default_factory=list)
    unreadable_index: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether there was anything to repair."""
        return bool(self.adopted or self.missing or self.damaged or self.rewritten or self.unreadable_index)


def repair_index(
    repository: Repository,
    *,
    read_all_packs: bool = False,
    dry_run: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> RepairReport:
    """Make the index name exactly what is there.

    Index files that are right stay as they are. A pack whose size is not what the index says is read in full, with
    `read_all_packs` every one: of those that are damaged, the blobs that still open are stored anew. A blob that is
    lost is then in no index, and the next backup of the same data stores it again.

    `progress` is called with the number of bytes read since the last call.

    Raises:
        RepositoryLockedError: somebody is at work.
        StoreError: the repository cannot be read or written; nothing is lost.
    """
    workers = worker_count()
    with (
        lock.held(repository.files, exclusive=not dry_run) as held,
        ThreadPoolExecutor(workers, "donjon-repair") as executor,
    ):
        repair = _Repair(repository, RepairReport(dry_run), read_all_packs, progress)
        repair.survey(lambda items: map_ordered(executor, repair.examine, items, ahead=2 * workers))
        if not dry_run:
            repair.save(held)
            held.verify()
            repair.put_away()
            if isinstance(repository.store, KeepsLeftovers):
                repository.store.sweep_temporary()
        return repair.report


class _Repair:
    def __init__(
        self, repository: Repository, report: RepairReport, read_all_packs: bool, progress: Callable[[int], None]
    ) -> None:
        self.report = report
        self._index = BlobIndex()  # what is sound, and so needs no saving
        self._repository = repository.with_index(self._index)
        self._store = repository.store
        self._read_all_packs = read_all_packs
        self._progress = progress
        self._present: dict[bytes, int] = {}
        self._named: set[bytes] = set()
        self._to_index: list[_Entry] = []
        self._unsaved = 0  # blobs in those
        self._damaged: list[tuple[bytes, PackVerdict]] = []

    def survey(self, examine_all: Callable[[Iterable[_Claim]], Iterator[PackVerdict | None]]) -> None:
        """Find out what there is. Of the repository, only index files for sound packs are added on the way."""
        names = sorted(info.name for info in self._store.list(FileType.INDEX))
        self._present = {bytes.fromhex(info.name): info.size for info in self._store.list(FileType.PACK)}
        for name in names:
            try:
                packs = decode_index(self._repository.files.load(FileType.INDEX, name))
                BlobIndex().load(packs)  # proves the ids
                entries = [(parse_id(pack.id), packed_blobs(pack)) for pack in packs]
            except IntegrityError:
                self.report.unreadable_index.append(name)
                continue
            claims = [entry for entry in entries if entry[0] not in self._named]
            kept = [entry for entry in map(self._decide, claims, examine_all(claims)) if entry is not None]
            if kept == entries:
                self._index.load(packs)
            else:
                self.report.rewritten.append(name)
                self._index_anew(kept)
        claimed = self._named | {pack for pack, _ in self._damaged}
        orphans: list[_Claim] = [(pack, None) for pack in sorted(self._present.keys() - claimed)]
        for entry in map(self._decide, orphans, examine_all(orphans)):
            self._index_anew([entry] if entry else [])

    def examine(self, claim: _Claim) -> PackVerdict | None:
        """What is in a pack; as the index has it, if the size fits. None if the pack is missing. Thread-safe."""
        pack, blobs = claim
        size = self._present.get(pack)
        if size is None:
            return None
        if not self._read_all_packs:
            if blobs is None:
                return _by_header(self._repository, pack, size)
            if size == sum(blob.length for blob in blobs) + header_length(blobs):
                return PackVerdict((), (), tuple(blobs), tuple(blobs))
        verdict = read_pack(self._repository, pack, size, None, self._progress)
        if verdict.header is None and blobs:
            return read_pack(self._repository, pack, size, blobs)
        return verdict

    def _decide(self, claim: _Claim, verdict: PackVerdict | None) -> _Entry | None:
        """What the index shall say of a pack, if anything."""
        pack, blobs = claim
        if pack in self._named:  # an index file names it twice
            return None
        if verdict is None:
            self.report.missing.append(pack.hex())
            return None
        if verdict.faults:
            if blobs is None and verdict.header is None:
                self.report.unreadable.append(pack.hex())
            else:
                self._damaged.append((pack, verdict))
                self.report.damaged.append(SavedPack(pack.hex(), len(verdict.sound), len(verdict.lost)))
            return None
        self._named.add(pack)
        if blobs is not None and sorted(blobs) == sorted(verdict.sound):
            return pack, blobs
        self.report.adopted.append(pack.hex())
        return pack, list(verdict.sound)

    def _index_anew(self, entries: Iterable[_Entry]) -> None:
        for pack, blobs in entries:
            self._index.add(pack, blobs)
            self._to_index.append((pack, blobs))
            self._unsaved += len(blobs)
            if self._unsaved >= _BLOBS_PER_INDEX:
                self._save_index()

    def _save_index(self) -> None:
        if self._to_index and not self.report.dry_run:
            self._repository.files.save(FileType.INDEX, encode_index(self._to_index))
            trace.reached("repair.index-saved")
        self._to_index, self._unsaved = [], 0

    def save(self, held: lock.Lock) -> None:
        """Store the index to its end, and blobs of damaged packs anew."""
        self._save_index()
        with Writer(self._repository, held, WriteOptions()) as writer:
            for pack, verdict in self._damaged:
                for blob in verdict.sound:
                    self._save_blob(writer, blob, Location(pack, blob.offset, blob.length, blob.uncompressed_length))
            writer.flush()

    def _save_blob(self, writer: Writer, blob: PackedBlob, location: Location) -> None:
        if self._repository.has_blob(blob.type, blob.id):
            return
        parts = stream_blob(self._repository, blob.id, location)
        if blob.type is BlobType.TREE:
            writer.save_tree(parts)
        else:
            writer.save_blob(BlobType.DATA, b"".join(parts))

    def put_away(self) -> None:
        """Remove from the repository what has been replaced."""
        for name in self.report.rewritten:
            self._store.delete(FileName(FileType.INDEX, name))
            trace.reached("repair.index-deleted")
        for name in self.report.unreadable_index:
            _set_aside(self._store, FileName(FileType.INDEX, name))
        for pack, _ in self._damaged:
            _set_aside(self._store, FileName(FileType.PACK, pack.hex()))


def _by_header(repository: Repository, pack: bytes, size: int) -> PackVerdict:
    try:
        header = tuple(read_header(repository, pack, size))
    except IntegrityError as error:
        return PackVerdict((str(error),), (), (), None)
    return PackVerdict((), (), header, header)


def _set_aside(store: Store, file: FileName) -> None:
    try:
        if isinstance(store, SetsAside):
            store.set_aside(file)
        else:
            store.delete(file)
    except FileMissingError:
        pass
