# SPDX-License-Identifier: Apache-2.0
"""Reading: disks at any place or all the way through, trees and small files; every byte proven before it is used."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Self

from donjon.errors import DonjonError, IntegrityError
from donjon.repository.blob_index import Location
from donjon.repository.block_map import BlockMap
from donjon.repository.format.blob import BlobType, parse_id
from donjon.repository.format.compression import decompress_parts
from donjon.repository.format.crypto import NONCE_LENGTH, TAG_LENGTH, Opening
from donjon.repository.format.go_json import unquote_name
from donjon.repository.format.tree import Node, Tree, decode_tree, split_contents
from donjon.repository.repository import Repository, plaintext_length
from donjon.repository.spool import Spool
from donjon.repository.store import FileName, FileType

_CACHE = 64 << 20
_PART = 4 << 20
_READ_AHEAD = 4
_REMEMBERED = 64
_STREAM_FROM = 8 << 20


class BlobCache:
    """The blobs read last, up to so many bytes. Thread-safe."""

    def __init__(self, repository: Repository, capacity: int = _CACHE) -> None:
        self._repository = repository
        self._capacity = capacity
        self._blobs: OrderedDict[bytes, bytes] = OrderedDict()
        self._size = 0
        self._loading: dict[bytes, Future[bytes]] = {}
        self._guard = threading.Lock()

    def load(self, blob: bytes) -> bytes:
        """A data blob, loaded once however many ask for it at a time. Raises as `Repository.load_blob`."""
        with self._guard:
            if blob in self._blobs:
                self._blobs.move_to_end(blob)
                return self._blobs[blob]
            loading = self._loading.get(blob)
            mine = self._loading.setdefault(blob, Future())
        if loading is not None:
            return loading.result()
        try:
            plaintext = self._repository.load_blob(BlobType.DATA, blob)
        except BaseException as error:
            with self._guard:
                del self._loading[blob]
            mine.set_exception(error)
            raise
        self._keep(blob, plaintext)
        mine.set_result(plaintext)
        return plaintext

    def _keep(self, blob: bytes, plaintext: bytes) -> None:
        with self._guard:
            del self._loading[blob]
            self._blobs[blob] = plaintext
            self._size += len(plaintext)
            while self._size > self._capacity and len(self._blobs) > 1:
                self._size -= len(self._blobs.popitem(last=False)[1])


class _Lately:
    """The numbers added last, up to so many. Thread-safe."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._numbers: OrderedDict[int, None] = OrderedDict()
        self._guard = threading.Lock()

    def __contains__(self, number: int) -> bool:
        return number in self._numbers

    def add(self, number: int) -> bool:
        """Take a number up; whether it was there already."""
        with self._guard:
            known = number in self._numbers
            self._numbers[number] = None
            self._numbers.move_to_end(number)
            if len(self._numbers) > self._capacity:
                self._numbers.popitem(last=False)
            return known


class Image:
    """A disk in the repository, readable at any place from several threads.

    Whoever comes to a block from the one before it gets the next ones read ahead, however many readers there are, as a
    booting guest that reads several files at a time. Use it in a `with` block.
    """

    def __init__(self, repository: Repository, block_map: BlockMap, cache: BlobCache | None = None) -> None:
        self.block_map = block_map
        self.size = block_map.size
        self._cache = cache or BlobCache(repository)
        self._ahead = ThreadPoolExecutor(_READ_AHEAD, "donjon-read-ahead")
        self._read = _Lately(_REMEMBERED)
        self._asked = _Lately(_REMEMBERED * _READ_AHEAD)
        self._read.add(-1)  # the beginning is read as if by one who reads on

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading ahead. The block map is its owner's to close."""
        self._ahead.shutdown(cancel_futures=True)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from `offset` on; fewer than `length` only at the end of the disk.

        Raises:
            ValueError: a negative offset or length.
            IntegrityError: a block is damaged or missing.
        """
        if offset < 0 or length < 0:
            raise ValueError("negative offset or length")
        end = min(offset + length, self.size)
        if offset < end:
            self._read_ahead(offset // self.block_map.block_size, (end - 1) // self.block_map.block_size)
        parts = []
        while offset < end:
            block, within = divmod(offset, self.block_map.block_size)
            part = self.load_block(block)[within : within + end - offset]
            parts.append(part)
            offset += len(part)
        return b"".join(parts)

    def load_block(self, block: int) -> bytes:
        """One block, whole."""
        plaintext = self._cache.load(self.block_map.ids(block, block + 1))
        if len(plaintext) != self.block_map.length_of(block):
            expected = self.block_map.length_of(block)
            raise IntegrityError(f"cannot read block {block} of a disk: {len(plaintext)} bytes instead of {expected}")
        return plaintext

    def _read_ahead(self, first: int, last: int) -> None:
        """Blocks `first` to `last` are about to be read."""
        read_before = self._read.add(last)
        if read_before or not (first < last or first - 1 in self._read):
            return
        for block in range(last + 1, min(last + 1 + _READ_AHEAD, self.block_map.blocks)):
            if not self._asked.add(block):
                self._ahead.submit(self._warm, block)

    def _warm(self, block: int) -> None:
        with suppress(DonjonError):  # whoever comes to need it will be told
            self.load_block(block)


def load_tree(repository: Repository, blob: bytes) -> Tree:
    """A directory of ordinary size. Raises IntegrityError."""
    return decode_tree(repository.load_blob(BlobType.TREE, blob))


def load_disk_tree(repository: Repository, blob: bytes, size: int, block_size: int) -> tuple[Node, BlockMap]:
    """The directory that holds one disk: the disk's node and its block map, in bounded memory.

    `blob` is the tree's id, `size` the disk's in bytes.

    Raises:
        IntegrityError: it is damaged, holds anything else, or the disk has not as many blocks as its size asks for.
    """
    block_map = BlockMap(size, block_size)
    try:
        tree = stream_tree(repository, blob, lambda _, ids: block_map.append(ids))
        if len(tree.nodes) != 1 or tree.nodes[0].size != size or not block_map.complete:
            raise IntegrityError(f"cannot read the map of a disk: tree {blob.hex()[:16]} is not one of {size} bytes")
    except BaseException:
        block_map.close()
        raise
    return tree.nodes[0], block_map


def stream_tree(repository: Repository, blob: bytes, keep: Callable[[int, bytes], None]) -> Tree:
    """A directory of any size, its lists of content passed to `keep` as by `split_contents`.

    Raises:
        IntegrityError: it is damaged, or not a directory as Go writes it.
    """
    locations = repository.locations(BlobType.TREE, blob)
    if not locations or plaintext_length(locations[0]) < _STREAM_FROM:
        return split_contents([repository.load_blob(BlobType.TREE, blob)], keep)
    failure: DonjonError | None = None
    for location in locations:
        with Spool() as sealed:
            try:
                opening = _authenticated(repository, location, sealed)
            except DonjonError as error:
                failure = failure or error
                continue
            return split_contents(_plaintext(opening, location, sealed, blob), keep)
    assert failure
    raise failure


def stream_blob(repository: Repository, blob: bytes, location: Location) -> Iterator[bytes]:
    """A blob's plaintext in parts, authenticated before the first; whether it is the right one shows at the end.

    Raises:
        IntegrityError: it is damaged, or not the blob; what came before is worth nothing then.
    """
    with Spool() as sealed:
        yield from _plaintext(_authenticated(repository, location, sealed), location, sealed, blob)


def _authenticated(repository: Repository, location: Location, sealed: Spool) -> Opening:
    opening = Opening(repository.key, location.length)
    name = FileName(FileType.PACK, location.pack.hex())
    for at in range(0, location.length, _PART):
        part = repository.store.load(name, location.offset + at, min(_PART, location.length - at))
        opening.authenticate(part)
        sealed.append(part)
    opening.verify()
    return opening


def _plaintext(opening: Opening, location: Location, sealed: Spool, blob: bytes) -> Iterator[bytes]:
    """A blob's plaintext in parts; that it is the right one is known, and said, only at the end."""
    parts = map(opening.decrypt, sealed.parts(NONCE_LENGTH, len(sealed) - TAG_LENGTH))
    digest = hashlib.sha256()
    for part in decompress_parts(parts) if location.uncompressed_length else parts:
        digest.update(part)
        yield part
    if digest.digest() != blob:
        raise IntegrityError(f"cannot read blob {blob.hex()[:16]}: its content is not what its name promises")


def find_node(repository: Repository, tree: bytes, path: str) -> Node:
    """The node at "/a/b" below a tree.

    Raises:
        IntegrityError: there is none.
    """
    node: Node | None = None
    for part in path.strip("/").split("/"):
        if node is not None:
            if node.subtree is None:
                break
            tree = parse_id(node.subtree)
        # Compared unquoted: which characters are quoted depends on the Unicode version of who wrote the tree.
        node = next((n for n in load_tree(repository, tree).nodes if unquote_name(n.name) == part), None)
        if node is None:
            break
    if node is None:
        raise IntegrityError(f"cannot find {path} in the snapshot")
    return node


def read_file(repository: Repository, node: Node) -> Iterator[bytes]:
    """A file's content, blob by blob. Raises IntegrityError."""
    for blob in node.content or []:
        yield repository.load_blob(BlobType.DATA, parse_id(blob))
