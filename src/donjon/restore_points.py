# SPDX-License-Identifier: Apache-2.0
"""Restore points in a repository: each is a snapshot whose tree stock users find their way in.

- /web01/donjon.json      what the restore point says of itself (Manifest)
- /web01/domain.xml       the VM's definition
- /web01/definition-live.xml  the same as the guest ran: with what was plugged in meanwhile
- /web01/vda/vda.raw      a disk; every disk has a directory of its own, so that an unchanged one costs nothing
- /web01/files/nvram/...  what else belongs to the VM
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import quote, unquote

import msgspec

from donjon import __version__
from donjon.errors import FileMissingError, IntegrityError
from donjon.model.restore_point import DiskPoint, Manifest, RestorePoint
from donjon.model.restore_point_spec import find_restore_point, split_spec
from donjon.repository.block_map import BlockMap
from donjon.repository.format import go_json
from donjon.repository.format.blob import BlobType, parse_id
from donjon.repository.format.snapshot import Snapshot, Summary
from donjon.repository.format.tree import Node, dir_node, encode_parts, encode_tree, file_node
from donjon.repository.lock import username
from donjon.repository.reader import find_node, load_disk_tree, load_tree, read_file
from donjon.repository.repository import Repository
from donjon.repository.store import FileType
from donjon.repository.writer import Writer

__all__ = [
    "MANIFEST_FORMAT",
    "PROGRAM",
    "Survey",
    "decode_manifest",
    "disk_path",
    "encode_manifest",
    "find_disk_tree",
    "find_restore_point",
    "inode_of",
    "load_definition",
    "load_disk",
    "load_live_definition",
    "load_manifest",
    "load_restore_point",
    "safe_name",
    "save_content",
    "save_disk",
    "save_restore_point",
    "split_spec",
    "survey_restore_points",
]

PROGRAM = f"donjon {__version__}"
MANIFEST_FORMAT = 1
_MANIFEST = "donjon.json"
_DEFINITION = "domain.xml"
_LIVE_DEFINITION = "definition-live.xml"
_VM_TAG = "vm:"
_METHOD_TAG = "method:"
_CONSISTENCY_TAG = "consistency:"
_PIECE = 512 << 10
_ROLE = re.compile(r"nvram|tpm|kernel|initrd|dtb|seed[0-9]*")
_TARGET = re.compile(r"[^/\x00-\x1f\x7f]+")
_UNSAFE = re.compile(r"[^\w .()\[\]{}=,;!#$&'+@^`~-]")


def safe_name(name: str) -> str:
    """A VM's name as the name of a directory: what a path or a terminal could stumble over is percent-encoded."""
    safe = _UNSAFE.sub(lambda match: quote(match.group(), safe="", errors="surrogateescape"), name)
    if safe.startswith((".", " ")) or not safe:
        safe = f"%{ord(safe[0]):02X}{safe[1:]}" if safe else "%00"
    return safe


def disk_path(vm_name: str, target: str) -> str:
    """Where a disk lies in the snapshot's tree."""
    return f"/{safe_name(vm_name)}/{safe_name(target)}/{safe_name(target)}.raw"


def save_disk(writer: Writer, target: str, block_map: BlockMap, mtime_ns: int) -> bytes:
    """Keep a disk's block map, as the directory that holds the disk; returns that tree's id."""
    name = f"{safe_name(target)}.raw"
    node = file_node(name, size=block_map.size, mtime_ns=mtime_ns, inode=inode_of(name))
    return writer.save_tree(encode_parts([(node, block_map.parts())]))


def save_content(writer: Writer, name: str, content: Iterable[bytes], mtime_ns: int) -> Node:
    """Keep a file; returns its node. `content` in pieces of any size."""
    blobs, size = [], 0
    for piece in _pieces(content):
        blobs.append(writer.save_blob(BlobType.DATA, piece))
        size += len(piece)
    return file_node(name, size=size, mtime_ns=mtime_ns, inode=inode_of(name), content=blobs)


def save_restore_point(
    writer: Writer,
    manifest: Manifest,
    *,
    definition: str | None,
    disks: Mapping[str, bytes],
    files: Node | None,
    begun_at: datetime,
    previous: RestorePoint | None,
    previous_disks: Mapping[str, bytes],
    live_definition: str | None = None,
) -> RestorePoint:
    """Commit a restore point.

    Args:
        writer: that disks and files were given to.
        manifest: what it says of itself.
        definition: the VM's, if there is one.
        disks: tree ids by target.
        files: the directory of what else belongs to the VM.
        begun_at: when the backup began.
        previous: the VM's last restore point.
        previous_disks: the tree ids of its disks there, as far as they are known.
        live_definition: the VM's as it ran, if it did.

    Raises:
        StoreError: it could not be kept, and does not exist.
    """
    taken_ns = int(manifest.taken_at.timestamp() * 10**6) * 1000
    nodes = [dir_node(safe_name(disk), tree, mtime_ns=taken_ns, inode=inode_of(disk)) for disk, tree in disks.items()]
    nodes.append(save_content(writer, _MANIFEST, [encode_manifest(manifest)], taken_ns))
    for name, text in ((_DEFINITION, definition), (_LIVE_DEFINITION, live_definition)):
        if text is not None:
            nodes.append(save_content(writer, name, [text.encode()], taken_ns))
    if files is not None:
        nodes.append(files)
    vm_tree = writer.save_blob(BlobType.TREE, encode_tree(nodes))
    top = safe_name(manifest.vm_name)
    root = writer.save_blob(
        BlobType.TREE, encode_tree([dir_node(top, vm_tree, mtime_ns=taken_ns, inode=inode_of(top))])
    )
    snapshot = Snapshot(
        time=go_json.format_time(manifest.taken_at),
        parent=previous.id if previous else None,
        tree=root.hex(),
        paths=[f"/{top}"],
        hostname=manifest.host,
        username=username(),
        uid=os.getuid(),
        gid=os.getgid(),
        tags=_tags(manifest),
        program_version=PROGRAM,
        summary=_summary(
            writer, manifest, [(previous_disks.get(disk), tree) for disk, tree in disks.items()], begun_at
        ),
    )
    return _restore_point(writer.save_snapshot(snapshot), snapshot)


def _tags(manifest: Manifest) -> list[str]:
    return [
        _VM_TAG + manifest.vm_uuid,
        _METHOD_TAG + manifest.method,
        _CONSISTENCY_TAG + manifest.consistency,
    ]


def _summary(
    writer: Writer, manifest: Manifest, disks: Sequence[tuple[bytes | None, bytes]], begun_at: datetime
) -> Summary:
    """`disks` are the trees of each, before and now."""
    written = writer.written
    new = sum(before is None for before, _ in disks)
    unmodified = sum(before == now for before, now in disks)
    return Summary(
        backup_start=go_json.format_time(begun_at),
        backup_end=go_json.format_time(datetime.now(UTC)),
        files_new=new,
        files_changed=len(disks) - new - unmodified,
        files_unmodified=unmodified,
        data_blobs=written.data_blobs,
        tree_blobs=written.tree_blobs,
        data_added=written.added,
        data_added_packed=written.stored,
        total_files_processed=len(disks),
        total_bytes_processed=sum(disk.size for disk in manifest.disks),
    )


def encode_manifest(manifest: Manifest) -> bytes:
    """The text of donjon.json, for people to read too."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def decode_manifest(text: bytes) -> Manifest:
    """What donjon.json says.

    Raises:
        IntegrityError: it cannot be read, says what would lead a restore astray, or a newer donjon wrote it.
    """
    try:
        manifest = msgspec.json.decode(text, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise IntegrityError(f"cannot read {_MANIFEST}: {error}") from error
    if manifest.format > MANIFEST_FORMAT:
        raise IntegrityError(f"cannot read {_MANIFEST}: a newer donjon wrote it", hint="use that one")
    _check_names(manifest)
    return manifest


def _check_names(manifest: Manifest) -> None:
    """What becomes part of paths at a restore must not lead elsewhere."""
    for file in manifest.side_files:
        if not _ROLE.fullmatch(file.role):
            raise IntegrityError(f"cannot read {_MANIFEST}: there are no side files called {file.role!r}")
    for disk in manifest.disks:
        if disk.target in (".", "..") or not _TARGET.fullmatch(disk.target):
            raise IntegrityError(f"cannot read {_MANIFEST}: {disk.target!r} is no name of a disk")


class Survey(NamedTuple):
    """The restore points that can be read, oldest first, and a sentence for every snapshot that cannot."""

    points: tuple[RestorePoint, ...]
    damaged: tuple[str, ...]


def survey_restore_points(repository: Repository) -> Survey:
    """All restore points, whatever became of some; snapshots of files by restic are none. Raises StoreError."""
    points, damaged = [], []
    for info in list(repository.store.list(FileType.SNAPSHOT)):
        try:
            snapshot = repository.load_snapshot(info.name)
            point = _restore_point(info.name, snapshot)
        except FileMissingError:
            continue  # forgotten in the meantime
        except IntegrityError as error:
            damaged.append(f"the snapshot {info.name[:8]} is damaged: {error}")
            continue
        try:
            known = point if point.vm_uuid else _without_tags(repository, point, snapshot)
        except (IntegrityError, FileMissingError) as error:
            damaged.append(
                f"the snapshot {info.name[:8]} cannot be read, so it may be a restore point without its tags: {error}"
            )
            continue
        if known:
            points.append(known)
    return Survey(tuple(sorted(points, key=lambda point: (point.taken_at, point.id))), tuple(damaged))


def _without_tags(repository: Repository, point: RestorePoint, snapshot: Snapshot) -> RestorePoint | None:
    """A restore point of ours that somebody has given other tags; None if it is none.

    restic before 0.16 drops program and summary from the snapshots that it rewrites, and names none in its own.
    """
    is_shaped_so = len(snapshot.paths) == 1 and snapshot.paths[0].count("/") == 1
    if not (snapshot.program_version.startswith("donjon ") or (is_shaped_so and not snapshot.program_version)):
        return None
    text = _load_text(repository, point, _MANIFEST)
    if text is None:
        return None
    manifest = decode_manifest(text)
    return replace(
        point,
        vm_uuid=manifest.vm_uuid,
        method=manifest.method,
        consistency=manifest.consistency,
        size=sum(disk.size for disk in manifest.disks),
    )


def load_restore_point(repository: Repository, name: str) -> RestorePoint:
    """The restore point that a snapshot of donjon's is. Raises IntegrityError, FileMissingError."""
    return _restore_point(name, repository.load_snapshot(name))


def load_manifest(repository: Repository, point: RestorePoint) -> Manifest:
    """What a restore point says of itself. Raises IntegrityError."""
    text = _load_text(repository, point, _MANIFEST)
    if text is None:
        raise IntegrityError(f"cannot find {_MANIFEST} in the restore point {point.id[:8]}")
    return decode_manifest(text)


def load_definition(repository: Repository, point: RestorePoint) -> str | None:
    """The VM's definition, or None if the restore point has none. Raises IntegrityError."""
    return _load_xml(repository, point, _DEFINITION)


def load_live_definition(repository: Repository, point: RestorePoint) -> str | None:
    """The VM's definition as it ran, or None if it did not, or nobody knew. Raises IntegrityError."""
    return _load_xml(repository, point, _LIVE_DEFINITION)


def _load_xml(repository: Repository, point: RestorePoint, file: str) -> str | None:
    text = _load_text(repository, point, file)
    try:
        return None if text is None else text.decode()
    except UnicodeDecodeError as error:
        raise IntegrityError(f"cannot read {file}: it is not UTF-8") from error


def find_disk_tree(repository: Repository, point: RestorePoint, disk: DiskPoint) -> bytes:
    """The id of the directory that holds a disk. Raises IntegrityError."""
    node = find_node(repository, point.tree, disk.path.rpartition("/")[0])
    if node.subtree is None:
        raise IntegrityError(f"cannot find {disk.path} in the snapshot")
    return bytes.fromhex(node.subtree)


def load_disk(repository: Repository, point: RestorePoint, disk: DiskPoint) -> BlockMap:
    """A disk's block map, for the caller to close. Raises IntegrityError."""
    tree = find_disk_tree(repository, point, disk)
    return load_disk_tree(repository, tree, disk.size, disk.block_size)[1]


def _load_text(repository: Repository, point: RestorePoint, file: str) -> bytes | None:
    """A file beside the disks. The directory is not looked for by name, for who wrote it may have quoted otherwise."""
    for top in load_tree(repository, point.tree).nodes:
        for node in load_tree(repository, parse_id(top.subtree)).nodes if top.subtree else ():
            if node.name == file:
                return b"".join(read_file(repository, node))
    return None


def _restore_point(name: str, snapshot: Snapshot) -> RestorePoint:
    path = snapshot.paths[0] if snapshot.paths else "/"
    return RestorePoint(
        id=name,
        origin=snapshot.original or name,
        vm_uuid=_tag(snapshot, _VM_TAG) or "",
        vm_name=unquote(path.lstrip("/"), errors="surrogateescape"),
        host=snapshot.hostname,
        taken_at=snapshot.taken_at,
        method=_tag(snapshot, _METHOD_TAG) or "",
        consistency=_tag(snapshot, _CONSISTENCY_TAG) or "",
        size=snapshot.summary.total_bytes_processed if snapshot.summary else 0,
        tree=bytes.fromhex(snapshot.tree),
    )


def _tag(snapshot: Snapshot, prefix: str) -> str | None:
    return next((tag[len(prefix) :] for tag in snapshot.tags or () if tag.startswith(prefix)), None)


def _pieces(content: Iterable[bytes]) -> Iterable[bytes]:
    pending = b""
    for part in content:
        pending += part
        while len(pending) >= _PIECE:
            yield pending[:_PIECE]
            pending = pending[_PIECE:]
    if pending:
        yield pending


def inode_of(name: str) -> int:
    """A number of its own for every name, the same in every restore point, so that equal directories are equal."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:6], "big")
