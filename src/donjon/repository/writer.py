# SPDX-License-Identifier: Apache-2.0
"""Writing: blobs are sealed by many threads, packed in order by one, and found by others only once durable.

Order of durability: packs, then the index that names them, then the snapshot, which is the commit point.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

from donjon import trace
from donjon.errors import DonjonError, FileExistsInStoreError, IntegrityError, RefusedError
from donjon.repository import lock
from donjon.repository.format.blob import BlobType, PackedBlob, blob_id
from donjon.repository.format.compression import FASTEST, CompressionStream, Compressor, compress_small, decompress
from donjon.repository.format.config import VERSION
from donjon.repository.format.crypto import Buffer, open_sealed, seal, seal_stream
from donjon.repository.format.pack import encode_header
from donjon.repository.format.snapshot import Snapshot, encode_snapshot
from donjon.repository.ordered import map_ordered, worker_count
from donjon.repository.repository import Repository
from donjon.repository.spool import Spool
from donjon.repository.store import FileName, FileType

_BLOBS_PER_INDEX = 50_000
_INDEX_AFTER_S = 300.0
_PACKS_IN_FLIGHT = 2
_LARGEST_IN_MEMORY = 32 << 20

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How to write.

    `level` is zstd's (1 fast .. 19 small); `pack_size` in bytes; `verify` opens every blob again before it is kept;
    `workers` seal blobs (0: as many as is worth while). `pace` is the lock's.
    """

    level: int = FASTEST
    pack_size: int = 16 << 20
    verify: bool = False
    workers: int = 0
    pace: lock.Pace = field(default_factory=lock.Pace)


class Prepared(NamedTuple):
    """A blob on its way into a pack; `sealed` is None if the repository has it already."""

    id: bytes
    type: BlobType
    sealed: bytearray | Spool | None
    uncompressed_length: int
    plain_length: int


@dataclass(slots=True)
class Written:
    """What has been added so far: numbers of blobs, bytes before (`added`) and after compression (`stored`)."""

    data_blobs: int = 0
    tree_blobs: int = 0
    added: int = 0
    stored: int = 0


@dataclass(slots=True)
class _OpenPack:
    """A pack that still grows; a large one does so in a spool, because several are on their way at a time."""

    large: bool
    blobs: list[PackedBlob] = field(default_factory=list)
    parts: list[bytearray | Spool] = field(default_factory=list)
    size: int = 0

    def add(self, prepared: Prepared) -> None:
        assert prepared.sealed is not None
        length = len(prepared.sealed)
        self.blobs.append(PackedBlob(prepared.id, prepared.type, self.size, length, prepared.uncompressed_length))
        self._keep(prepared.sealed)
        self.size += length

    def _keep(self, sealed: bytearray | Spool) -> None:
        if isinstance(sealed, Spool) or not self.large:
            self.parts.append(sealed)
            return
        if not self.parts or not isinstance(self.parts[-1], Spool):
            self.parts.append(Spool())
        spool = self.parts[-1]
        assert isinstance(spool, Spool)
        spool.append(sealed)


@dataclass(frozen=True, slots=True)
class _Content:
    """A finished pack's bytes, any number of times over."""

    parts: list[bytearray | Spool]
    header: bytes

    def __iter__(self) -> Iterator[Buffer]:
        for part in self.parts:
            if isinstance(part, Spool):
                yield from part.parts()
            else:
                yield part
        yield self.header


class Writer:
    """Adds to a repository whose lock is held. Only `prepare` may be called from several threads.

    Several writers may share a repository: what one has stored, the others find.

    Leaving the block without `flush` keeps what was finished, indexed, for a later run to find; it commits nothing.

    Attributes:
        written: what was added so far.
        packs: ids of the packs saved so far.
    """

    def __init__(self, repository: Repository, held: lock.Lock, options: WriteOptions) -> None:
        self.written = Written()
        self.packs: list[bytes] = []
        self._repository = repository
        self._lock = held
        self._options = options
        self._open = {kind: self._new_pack() for kind in BlobType}
        self._claimed: set[tuple[BlobType, bytes]] = set()
        self._guard = threading.Lock()
        self._per_thread = threading.local()
        self._worker_count = options.workers or worker_count()
        self._workers = ThreadPoolExecutor(self._worker_count, "donjon-seal")
        self._savers = ThreadPoolExecutor(_PACKS_IN_FLIGHT, "donjon-save")
        self._saving: deque[Future[None]] = deque()
        self._indexed_s = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._workers.shutdown(cancel_futures=True)
        self._savers.shutdown()
        try:
            self._save_index()
        except DonjonError:
            if error is None:
                raise

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Results of `function`, called by the workers, in the order of the items; only a few items ahead."""
        return map_ordered(self._workers, function, items, ahead=2 * self._worker_count)

    def prepare(self, type: BlobType, plaintext: Buffer) -> Prepared:
        """Hash a blob and, if it is new, compress and seal it. Thread-safe; the result must be given to `add`."""
        blob = blob_id(plaintext)
        if not self._claim(type, blob):
            return Prepared(blob, type, None, 0, len(plaintext))
        # Trees always, however little they gain: restic's prune would repack the pack of one that is not.
        compressed = compress_small(plaintext) if type is BlobType.TREE else self._compressor().compress(plaintext)
        sealed = seal(self._repository.key, plaintext if compressed is None else compressed)
        length = 0 if compressed is None else len(plaintext)
        if self._options.verify:
            _verify(self._repository, blob, sealed, length)
        return Prepared(blob, type, sealed, length, len(plaintext))

    def add(self, prepared: Prepared) -> bytes:
        """Put a prepared blob into the pack that is open; returns its id.

        Raises:
            StoreError: an earlier pack could not be saved.
        """
        if prepared.sealed is not None:
            pack = self._open[prepared.type]
            pack.add(prepared)
            self._count(prepared)
            if pack.size >= self._options.pack_size:
                self._close_pack(prepared.type)
        return prepared.id

    def save_blob(self, type: BlobType, plaintext: Buffer) -> bytes:
        """Keep a blob; returns its id."""
        return self.add(self.prepare(type, plaintext))

    def save_tree(self, parts: Iterable[bytes]) -> bytes:
        """Keep a directory whose text comes in parts, however long it is; returns its id."""
        digest = hashlib.sha256()
        length = 0
        stream = CompressionStream()

        def compressed() -> Iterator[bytes]:
            nonlocal length
            for part in parts:
                digest.update(part)
                length += len(part)
                yield stream.update(part)
            yield stream.finish()

        sealed = Spool()
        for piece in seal_stream(self._repository.key, compressed()):
            sealed.append(piece)
        blob = digest.digest()
        if not self._claim(BlobType.TREE, blob):
            sealed.close()
            return blob
        return self.add(Prepared(blob, BlobType.TREE, sealed, length, length))

    def flush(self) -> None:
        """Make everything added so far durable, and findable by others.

        Raises:
            StoreError: it could not be; nothing that was there before is lost. This writer
                will not commit anything any more.
            IntegrityError: something was prepared and not added, because of an error that came in between.
        """
        for kind in BlobType:
            self._close_pack(kind)
        while self._saving:
            self._await_pack()
        with self._guard:
            if self._claimed:
                raise IntegrityError(
                    f"cannot commit: {len(self._claimed)} blobs that others may rely on were prepared, but never added"
                )
        self._save_index()

    def save_snapshot(self, snapshot: Snapshot) -> str:
        """Commit: from here on the snapshot exists. Flushes first; returns the snapshot's id."""
        self.flush()
        self._lock.verify()
        trace.reached("writer.before-snapshot")
        name = self._repository.files.save(FileType.SNAPSHOT, encode_snapshot(snapshot))
        trace.reached("writer.snapshot-saved")
        return name

    def _claim(self, type: BlobType, blob: bytes) -> bool:
        """Whether the blob is new, and the caller's to add."""
        with self._guard:
            if (type, blob) in self._claimed or self._repository.has_blob(type, blob):
                return False
            self._claimed.add((type, blob))
            return True

    def _compressor(self) -> Compressor:
        compressor: Compressor | None = getattr(self._per_thread, "compressor", None)
        if compressor is None:
            compressor = self._per_thread.compressor = Compressor(self._options.level)
        return compressor

    def _count(self, prepared: Prepared) -> None:
        if prepared.type is BlobType.DATA:
            self.written.data_blobs += 1
        else:
            self.written.tree_blobs += 1
        self.written.added += prepared.plain_length
        self.written.stored += len(prepared.sealed or b"")

    def _new_pack(self) -> _OpenPack:
        return _OpenPack(large=self._options.pack_size > _LARGEST_IN_MEMORY)

    def _close_pack(self, type: BlobType) -> None:
        pack, self._open[type] = self._open[type], self._new_pack()
        if not pack.blobs:
            return
        while len(self._saving) >= _PACKS_IN_FLIGHT:
            self._await_pack()
        self._saving.append(self._savers.submit(self._save_pack, pack))

    def _await_pack(self) -> None:
        """Wait for the oldest pack. One that failed stays where it is: nothing can be committed any more."""
        self._saving[0].result()
        self._saving.popleft()

    def _save_pack(self, pack: _OpenPack) -> None:
        content = _Content(pack.parts, encode_header(self._repository.key, pack.blobs))
        digest = hashlib.sha256()
        for part in content:
            digest.update(part)
        with suppress(FileExistsInStoreError):  # nonces are random: the same name is the same file, saved before
            self._repository.store.save(FileName(FileType.PACK, digest.hexdigest()), content)
        trace.reached("writer.pack-saved")
        for piece in pack.parts:
            if isinstance(piece, Spool):
                piece.close()
        with self._guard:
            self.packs.append(digest.digest())
            self._repository.add_pack(self.packs[-1], pack.blobs)
            self._claimed.difference_update((blob.type, blob.id) for blob in pack.blobs)
        late = time.monotonic() - self._indexed_s > _INDEX_AFTER_S
        if late or self._repository.unindexed_blobs >= _BLOBS_PER_INDEX:
            self._save_index()

    def _save_index(self) -> None:
        """Also for what other writers have stored: it may be in what this one is about to commit."""
        if not self._repository.unindexed_blobs:
            return
        self._lock.verify()
        self._repository.index_packs()
        trace.reached("writer.index-saved")
        self._indexed_s = time.monotonic()


def _verify(repository: Repository, blob: bytes, sealed: Buffer, uncompressed_length: int) -> None:
    plaintext = open_sealed(repository.key, sealed)
    if uncompressed_length:
        plaintext = decompress(plaintext, uncompressed_length)
    if blob_id(plaintext) != blob:
        raise IntegrityError(
            f"cannot store blob {blob.hex()[:16]}: what was sealed does not open to what was read",
            hint="suspect this machine's memory or processor; nothing wrong was written",
        )


@contextmanager
def writing(repository: Repository, options: WriteOptions | None = None) -> Iterator[Writer]:
    """Lock a repository and add to it. The index is loaded under the lock, so that no prune goes unnoticed.

    Raises:
        RepositoryLockedError: somebody holds it exclusively.
        RefusedError: the repository is of version 1, in which donjon does not write.
        IntegrityError: an index file is damaged.
    """
    if repository.config.version < VERSION:
        raise RefusedError(
            "cannot write to the repository: it is of version 1, which knows no compression",
            hint="`restic migrate upgrade_repo_v2` makes it one of version 2",
        )
    options = options or WriteOptions()
    with lock.held(repository.files, pace=options.pace) as held:
        repository.load_index()
        repository.forget_lost_packs()  # what was in them is stored anew
        with Writer(repository, held, options) as writer:
            yield writer
