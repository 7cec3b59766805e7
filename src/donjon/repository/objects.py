# SPDX-License-Identifier: Apache-2.0
"""The things that a repository is made of, listed and shown as they are: for the curious, and for repairs by hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from donjon.errors import ConfigError, FileMissingError
from donjon.repository.format.blob import BlobType
from donjon.repository.format.crypto import open_sealed
from donjon.repository.format.index_file import decode_index, packed_blobs
from donjon.repository.format.keyfile import encode_master_key
from donjon.repository.reader import stream_blob
from donjon.repository.repository import CONFIG, Repository
from donjon.repository.store import FileName, FileType

LISTABLE = ("blobs", "index", "keys", "locks", "packs", "snapshots")
SHOWABLE = ("blob", "config", "index", "key", "lock", "masterkey", "pack", "snapshot", "tree")

_FILES = {
    "index": FileType.INDEX,
    "key": FileType.KEY,
    "keys": FileType.KEY,
    "lock": FileType.LOCK,
    "locks": FileType.LOCK,
    "pack": FileType.PACK,
    "packs": FileType.PACK,
    "snapshot": FileType.SNAPSHOT,
    "snapshots": FileType.SNAPSHOT,
}
_PART = 4 << 20


def list_objects(repository: Repository, kind: str) -> Iterator[str]:
    """The ids of all objects of a kind of LISTABLE, sorted; blobs unsorted, with their type in front.

    Raises:
        ConfigError: there is no such kind.
        IntegrityError: an index file is damaged (blobs only).
    """
    if kind == "blobs":
        return (f"{found.name.lower()} {blob.hex()}" for found, blob in _blobs(repository))
    if kind not in LISTABLE:
        raise ConfigError(f"cannot list {kind}: it is none of {', '.join(LISTABLE)}")
    return iter(sorted(info.name for info in repository.store.list(_FILES[kind])))


def show(repository: Repository, kind: str, id: str = "") -> Iterator[bytes]:
    """The content of an object of a kind of SHOWABLE, opened, in parts; of a pack the bytes as they are stored.

    Args:
        repository: is only read.
        kind: "masterkey" shows the secret that all others serve to protect.
        id: the object's, or the beginning of it; of "tree" also a snapshot's.

    Raises:
        ConfigError: there is no such kind, or several ids begin like that.
        FileMissingError: there is no such object.
        IntegrityError: it is damaged.
    """
    if kind not in SHOWABLE:
        raise ConfigError(f"cannot show {kind}: it is none of {', '.join(SHOWABLE)}")
    if kind == "config":
        return iter([open_sealed(repository.key, repository.store.load(CONFIG))])
    if kind == "masterkey":
        return iter([encode_master_key(repository.key)])
    if kind == "blob":
        return _show_blob(repository, *_resolve_blob(repository, id, list(BlobType)))
    if kind == "tree":
        return _show_blob(repository, *_resolve_tree(repository, id))
    name = resolve((info.name for info in repository.store.list(_FILES[kind])), id, kind)
    return _show_file(repository, FileName(_FILES[kind], name))


def resolve(ids: Iterable[str], prefix: str, kind: str) -> str:
    """The one of `ids` that begins with `prefix`.

    Raises:
        ConfigError: several do, or there is no prefix.
        FileMissingError: none does.
    """
    if not prefix:
        raise ConfigError(f"cannot show a {kind} without its id")
    found = {name for name in ids if name.startswith(prefix)}
    if not found:
        raise FileMissingError(f"cannot find {kind} {prefix}: there is none whose id begins like that")
    if len(found) > 1:
        raise ConfigError(f"cannot tell which {kind} {prefix} means: {len(found)} ids begin like that")
    return found.pop()


def _show_file(repository: Repository, file: FileName) -> Iterator[bytes]:
    if file.type is FileType.KEY:
        yield repository.store.load(file)
    elif file.type is FileType.PACK:
        size = repository.store.size(file)
        for at in range(0, size, _PART):
            yield repository.store.load(file, at, min(_PART, size - at))
    else:
        yield repository.files.load(file.type, file.name)


def _show_blob(repository: Repository, type: BlobType, blob: bytes) -> Iterator[bytes]:
    location = repository.locations(type, blob)[0]
    return stream_blob(repository, blob, location)


def _resolve_tree(repository: Repository, id: str) -> tuple[BlobType, bytes]:
    snapshots = [info.name for info in repository.store.list(FileType.SNAPSHOT) if id and info.name.startswith(id)]
    if len(snapshots) == 1:
        return BlobType.TREE, bytes.fromhex(repository.load_snapshot(snapshots[0]).tree)
    return _resolve_blob(repository, id, [BlobType.TREE])


def _resolve_blob(repository: Repository, id: str, types: list[BlobType]) -> tuple[BlobType, bytes]:
    matching = ((blob.hex(), found) for found, blob in _blobs(repository) if found in types)
    candidates = {name: found for name, found in matching if id and name.startswith(id)}
    name = resolve(candidates, id, "blob")
    return candidates[name], bytes.fromhex(name)


def _blobs(repository: Repository) -> Iterator[tuple[BlobType, bytes]]:
    """All blobs that the index names; one that is in several packs comes several times."""
    for info in sorted(repository.store.list(FileType.INDEX)):
        for pack in decode_index(repository.files.load(FileType.INDEX, info.name)):
            for blob in packed_blobs(pack):
                yield blob.type, blob.id
