# SPDX-License-Identifier: Apache-2.0
"""A repository in restic's format: created, opened with a password, its blobs and snapshots found and read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Self

from donjon.errors import (
    DonjonError,
    FileExistsInStoreError,
    FileMissingError,
    IntegrityError,
    NoRepositoryError,
    RefusedError,
)
from donjon.repository import keys
from donjon.repository.blob_index import BlobIndex, Location
from donjon.repository.format.blob import BlobType, PackedBlob, blob_id
from donjon.repository.format.compression import decompress
from donjon.repository.format.config import VERSION, Config, decode_config, encode_config, new_config
from donjon.repository.format.crypto import OVERHEAD, Buffer, SecretKey, open_sealed, seal
from donjon.repository.format.index_file import decode_index, encode_index
from donjon.repository.format.keyfile import Scrypt
from donjon.repository.format.snapshot import Snapshot, decode_snapshot
from donjon.repository.sealed_files import SealedFiles
from donjon.repository.store import FileName, FileType, Store

CONFIG = FileName(FileType.CONFIG)


class Repository:
    """An open repository. Thread-safe: many may read it, and several writers add to it, each with a lock of its own."""

    def __init__(self, store: Store, key: SecretKey, config: Config) -> None:
        self.store = store
        self.key = key
        self.config = config
        self.files = SealedFiles(store, key, compressed=config.version >= VERSION)
        self._index: BlobIndex | None = None
        self._indexed: set[str] = set()
        self._unread: set[str] = set()
        self._unindexed: dict[bytes, list[PackedBlob]] = {}  # packs that are saved, but in no index file yet
        self._guard = threading.RLock()
        self._indexing = threading.Lock()

    @classmethod
    def create(cls, store: Store, password: str, *, scrypt: Scrypt | None = None) -> Self:
        """Make a new repository.

        Raises:
            RefusedError: there is one already, or what is left of one.
            StoreError: the place cannot be written.
        """
        _refuse_existing(store)
        store.create()
        key = SecretKey.generate()
        config = new_config()
        key_name = keys.add_key(store, key, password, scrypt=scrypt)
        try:
            store.save(CONFIG, [seal(key, encode_config(config))])
        except FileExistsInStoreError as error:  # by somebody who was faster: our key would only mislead
            store.delete(FileName(FileType.KEY, key_name))
            raise RefusedError(f"cannot create a repository at {store.location}: there is one already") from error
        return cls(store, key, config)

    @classmethod
    def open(cls, store: Store, password: str) -> Self:
        """Open a repository.

        Raises:
            NoRepositoryError: there is none.
            WrongPasswordError: no key opens with this password.
            IntegrityError: its config or all its keys are damaged.
            ConfigError: it is of a version that donjon does not know.
        """
        try:
            sealed = store.load(CONFIG)
        except FileMissingError as error:
            raise NoRepositoryError(
                f"cannot open a repository at {store.location}: there is none",
                hint="check the address; `donjon init` makes a new repository",
            ) from error
        key = keys.find_key(store, password)
        try:
            config = decode_config(open_sealed(key, sealed))
        except IntegrityError as error:
            raise IntegrityError(f"cannot open the repository at {store.location}: {error}") from error
        return cls(store, key, config)

    @property
    def index(self) -> BlobIndex:
        """Where the blobs are; loaded when first needed.

        A damaged index file is passed over here: for who only reads, the blobs it names are missing, no more. Who
        writes calls `load_index` first, which is strict.
        """
        with self._guard:
            if self._index is None:
                self._indexed = set()
                index = BlobIndex()
                self._load_index(index, passing_over_damage=True)
                self._index = index
            return self._index

    def load_index(self) -> None:
        """Load the index, or what was added to it since. A file that has vanished means a fresh start.

        Raises:
            IntegrityError: an index file is damaged.
        """
        with self._guard:
            present = {info.name for info in self.store.list(FileType.INDEX)}
            if self._index is None or not self._indexed <= present:
                self._index = None
                self._indexed = set()
            index = self._index or BlobIndex()
            self._load_index(index, passing_over_damage=False)
            self._index = index

    def _load_index(self, index: BlobIndex, *, passing_over_damage: bool) -> None:
        self._unread = set()
        for name in sorted(info.name for info in self.store.list(FileType.INDEX) if info.name not in self._indexed):
            try:
                index.load(decode_index(self.files.load(FileType.INDEX, name)))
                self._indexed.add(name)
            except IntegrityError as error:
                if not passing_over_damage:
                    raise IntegrityError(
                        str(error), hint="`donjon repair index` builds it anew from the packs"
                    ) from error
                self._unread.add(name)

    def with_index(self, index: BlobIndex) -> Repository:
        """The same repository, seen through an index that was put together elsewhere: by check and repair."""
        other = Repository(self.store, self.key, self.config)
        other._index = index
        return other

    def forget_lost_packs(self) -> int:
        """Find nothing in packs that the index names and the store has not; returns how many those are."""
        with self._guard:
            present = {bytes.fromhex(info.name) for info in self.store.list(FileType.PACK)}
            lost = self.index.packs - present
            self.index.forget(lost)
            for pack in self._unindexed.keys() - present:
                del self._unindexed[pack]
            return len(lost)

    def add_pack(self, pack: bytes, blobs: list[PackedBlob]) -> None:
        """Take up a pack that has just been saved. Whoever commits calls `index_packs` first."""
        with self._guard:
            self.index.add(pack, blobs)
            self._unindexed[pack] = blobs

    @property
    def unindexed_blobs(self) -> int:
        """How many blobs are in packs that no index file names yet."""
        with self._guard:
            return sum(map(len, self._unindexed.values()))

    def index_packs(self) -> None:
        """Have an index file name the packs that none names yet, whichever writer saved them.

        One writer finds what another has just stored, and must not rely on that one to index it.

        Raises:
            StoreError: it cannot be written; they are indexed the next time.
        """
        with self._indexing:
            with self._guard:
                packs = list(self._unindexed.items())
            if not packs:
                return
            name = self.files.save(FileType.INDEX, encode_index(packs))
            with self._guard:
                self._indexed.add(name)
                for pack, _ in packs:
                    self._unindexed.pop(pack, None)

    def has_blob(self, type: BlobType, blob: bytes) -> bool:
        """Whether a blob is in the repository, by its index."""
        with self._guard:
            return self.index.has(type, blob)

    def missing(self, type: BlobType, ids: bytes) -> list[int]:
        """Which of many packed ids name no blob in the repository, by its index: their places, ascending."""
        with self._guard:
            return self.index.missing(type, ids)

    def locations(self, type: BlobType, blob: bytes) -> list[Location]:
        """Every place where a blob is."""
        with self._guard:
            return list(self.index.locations(type, blob))

    def load_blob(self, type: BlobType, blob: bytes) -> bytes:
        """A blob's plaintext, from whichever pack has it undamaged.

        Raises:
            IntegrityError: no pack has it, or none undamaged.
            StoreError: the packs that have it cannot be read.
        """
        failure: DonjonError | None = None
        for location in self.locations(type, blob):
            try:
                name = FileName(FileType.PACK, location.pack.hex())
                sealed = self.store.load(name, location.offset, location.length)
                return self.open_blob(blob, location, sealed)
            except DonjonError as error:
                failure = failure or error
        if failure:
            raise failure
        raise IntegrityError(
            f"cannot find blob {blob.hex()[:16]}: no index file{' that can be read' if self._unread else ''} names it",
            hint="`donjon repair index` builds the index anew from the packs",
        )

    def open_blob(self, blob: bytes, location: Location, sealed: Buffer) -> bytes:
        """The plaintext of a blob's sealed bytes, proven to be the blob.

        Raises:
            IntegrityError: it is not.
        """
        try:
            plaintext = open_sealed(self.key, sealed)
            if location.uncompressed_length:
                plaintext = decompress(plaintext, location.uncompressed_length)
            if blob_id(plaintext) != blob:
                raise IntegrityError("its content is not what its name promises")
        except IntegrityError as error:
            raise IntegrityError(
                f"cannot read blob {blob.hex()[:16]} in pack {location.pack.hex()[:16]}: {error}",
                hint="`donjon check --read-data` shows the extent of the damage",
            ) from error
        return plaintext

    def snapshots(self) -> Iterator[tuple[str, Snapshot]]:
        """Ids and snapshots, in no order.

        Raises:
            IntegrityError: one is damaged.
        """
        for info in list(self.store.list(FileType.SNAPSHOT)):
            try:
                yield info.name, self.load_snapshot(info.name)
            except FileMissingError:
                continue  # forgotten in the meantime

    def load_snapshot(self, name: str) -> Snapshot:
        """The snapshot of an id. Raises IntegrityError, FileMissingError."""
        return decode_snapshot(self.files.load(FileType.SNAPSHOT, name))


def plaintext_length(location: Location) -> int:
    """Of a blob, in bytes, without reading it."""
    return location.uncompressed_length or location.length - OVERHEAD


def _refuse_existing(store: Store) -> None:
    try:
        store.size(CONFIG)
    except FileMissingError:
        leftover = next(iter(store.list(FileType.KEY)), None) or next(iter(store.list(FileType.SNAPSHOT)), None)
        if leftover is None:
            return
        raise RefusedError(
            f"cannot create a repository at {store.location}: there are keys or snapshots of another one",
            hint="a new config would make them useless for ever; choose an empty place",
        ) from None
    raise RefusedError(
        f"cannot create a repository at {store.location}: there is one already", hint="use it, or choose another place"
    )
