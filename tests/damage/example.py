# SPDX-License-Identifier: Apache-2.0
"""A small repository with two restore points of two disks, and ways to damage it."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from donjon.errors import DonjonError
from donjon.repository.format import go_json
from donjon.repository.format.blob import BlobType, parse_id
from donjon.repository.format.pack import TRAILER_LENGTH
from donjon.repository.format.snapshot import Snapshot
from donjon.repository.format.tree import dir_node, encode_tree
from donjon.repository.keys import add_key
from donjon.repository.lock import LockFile, Pace, held
from donjon.repository.pack_reading import read_header
from donjon.repository.reader import Image, find_node, load_disk_tree, load_tree
from donjon.repository.repository import CONFIG, Repository
from donjon.repository.store import FileName, FileType
from donjon.repository.stores.memory import MemoryStore
from donjon.repository.writer import WriteOptions, Writer
from donjon.restore.image import restore_image
from tests.unit.repository.disks import BLOCK, CHEAP, PASSWORD, Disk, Target, new_repository, random_bytes, save_disk

OTHER_PASSWORD = "other"

Point = tuple[str, str]  # a snapshot and a disk of it
Damage = Callable[[MemoryStore, FileName, FileName], None]


@dataclass(frozen=True)
class Example:
    """The files of the repository, what its disks hold, and a file of each kind with one to swap it with."""

    files: dict[FileName, bytes]
    disks: dict[Point, bytes]
    targets: dict[str, tuple[FileName, FileName]]

    def store(self) -> MemoryStore:
        """A copy, to be damaged."""
        store = MemoryStore()
        store.files = dict(self.files)
        return store


def build() -> Example:
    """The second restore point differs in one block of vda; vdb is the same."""
    repository = new_repository()
    store = repository.store
    assert isinstance(store, MemoryStore)
    other_key = add_key(store, repository.key, OTHER_PASSWORD, scrypt=CHEAP)
    first = random_bytes(12 * BLOCK, 1) + bytes(4 * BLOCK) + b"tail"
    changed = first[: 5 * BLOCK] + random_bytes(BLOCK, 2) + first[6 * BLOCK :]
    vdb = b"text " * BLOCK + random_bytes(4 * BLOCK, 3)
    disks: dict[Point, bytes] = {}
    for minute, vda in enumerate((first, changed)):
        snapshot = back_up(repository, {"vda": vda, "vdb": vdb}, minute)
        disks |= {(snapshot, "vda"): vda, (snapshot, "vdb"): vdb}
    lock_name, other_lock = (_foreign_lock(repository, user) for user in ("ann", "bob"))
    snapshots = [point[0] for point in disks][::2]
    indexes = sorted(info.name for info in store.list(FileType.INDEX))
    data, other_data = _packs(repository, snapshots, BlobType.DATA)
    trees, _ = _packs(repository, snapshots, BlobType.TREE)
    targets = {
        "config": (CONFIG, FileName(FileType.INDEX, indexes[0])),
        "key": (FileName(FileType.KEY, other_key), FileName(FileType.SNAPSHOT, snapshots[0])),
        "index": (FileName(FileType.INDEX, indexes[0]), FileName(FileType.INDEX, indexes[1])),
        "snapshot": (FileName(FileType.SNAPSHOT, snapshots[0]), FileName(FileType.SNAPSHOT, snapshots[1])),
        "tree pack": (trees, data),
        "data pack": (data, other_data),
        "lock": (lock_name, other_lock),
    }
    return Example(store.files, disks, targets)


def back_up(repository: Repository, disks: dict[str, bytes], minute: int = 0) -> str:
    """A restore point; of the same disks at the same minute always the same trees."""
    with held(repository.files, pace=Pace(settle=0)) as lock:
        repository.load_index()
        with Writer(repository, lock, WriteOptions(pack_size=8 * BLOCK, workers=2)) as writer:
            return _save_point(writer, disks, minute)


def _save_point(writer: Writer, disks: dict[str, bytes], minute: int) -> str:
    nodes = [dir_node(target, _save(writer, content), mtime_ns=1, inode=2) for target, content in disks.items()]
    vm = writer.save_blob(BlobType.TREE, encode_tree(nodes))
    root = writer.save_blob(BlobType.TREE, encode_tree([dir_node("web", vm, mtime_ns=minute, inode=3)]))
    time = go_json.format_time_ns((1_700_000_000 + 60 * minute) * 10**9)
    return writer.save_snapshot(Snapshot(time=time, tree=root.hex(), paths=["/web"], hostname="host"))


def _save(writer: Writer, content: bytes) -> bytes:
    return save_disk(writer, Disk(content))[1]


def _foreign_lock(repository: Repository, user: str) -> FileName:
    lock = LockFile(time="2100-01-01T00:00:00Z", exclusive=False, hostname="elsewhere", username=user, pid=1)
    return FileName(FileType.LOCK, repository.files.save(FileType.LOCK, go_json.encode(lock)))


def _packs(repository: Repository, snapshots: list[str], type: BlobType) -> tuple[FileName, FileName]:
    """Two packs of a type that the first restore point needs."""
    found = {}
    for info in sorted(repository.store.list(FileType.PACK)):
        header = read_header(repository, bytes.fromhex(info.name), info.size)
        if header[0].type is type:
            found[info.name] = header
    root = parse_id(repository.load_snapshot(snapshots[0]).tree)
    content = find_node(repository, root, "web/vda/vda.raw").content or []
    wanted = {root} if type is BlobType.TREE else set(map(bytes.fromhex, content))
    needed = [name for name, header in found.items() if wanted & {blob.id for blob in header}]
    names = needed + [name for name in found if name not in needed]
    return FileName(FileType.PACK, names[0]), FileName(FileType.PACK, names[1])


def restore(repository: Repository, point: Point) -> bytes:
    """A disk as `restore_image` writes it and, which must be the same, as `Image.read` reads it."""
    root = parse_id(repository.load_snapshot(point[0]).tree)
    tree = parse_id(find_node(repository, root, f"web/{point[1]}").subtree or "")
    size = load_tree(repository, tree).nodes[0].size
    with load_disk_tree(repository, tree, size, BLOCK)[1] as block_map:
        target = Target(size)
        restore_image(repository, block_map, target)
        assert Image(repository, block_map).read(0, size) == target.content
        return bytes(target.content)


def unrestorable(store: MemoryStore, disks: dict[Point, bytes], password: str = PASSWORD) -> set[Point]:
    """The disks that do not come back; those that do are proven to be what was backed up."""
    lost = set()
    for point, content in disks.items():
        try:
            found = restore(Repository.open(store, password), point)
        except DonjonError:
            lost.add(point)
        else:
            assert hashlib.sha256(found).digest() == hashlib.sha256(content).digest(), f"silently wrong: {point}"
    return lost


def delete(store: MemoryStore, file: FileName, _: FileName) -> None:
    del store.files[file]


def truncate(store: MemoryStore, file: FileName, size: int) -> None:
    store.files[file] = store.files[file][:size]


def flip(store: MemoryStore, file: FileName, at: int) -> None:
    content = bytearray(store.files[file])
    content[at] ^= 0x40
    store.files[file] = bytes(content)


def swap(store: MemoryStore, file: FileName, other: FileName) -> None:
    store.files[file], store.files[other] = store.files[other], store.files[file]


DAMAGES: dict[str, Damage] = {
    "deleted": delete,
    "emptied": lambda store, file, _: truncate(store, file, 0),
    "cut to half": lambda store, file, _: truncate(store, file, len(store.files[file]) // 2),
    "one byte short": lambda store, file, _: truncate(store, file, len(store.files[file]) - 1),
    "first byte flipped": lambda store, file, _: flip(store, file, 0),
    "middle byte flipped": lambda store, file, _: flip(store, file, len(store.files[file]) // 2),
    "last byte flipped": lambda store, file, _: flip(store, file, -1),
    "byte before the last four flipped": lambda store, file, _: flip(store, file, -TRAILER_LENGTH - 1),
    "swapped with another": swap,
}


def spill(store: MemoryStore, folder: Path) -> Path:
    """The repository as files, for stock restic."""
    for file, content in store.files.items():
        path = folder / file.type.value
        if file.type is FileType.PACK:
            path /= file.name[:2]
        path = path / file.name if file.name else path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for kind in set(FileType) - {FileType.CONFIG}:
        (folder / kind.value).mkdir(exist_ok=True)
    return folder


def restic_finds_it_sound(folder: Path) -> bool:
    """The verdict of `restic check --read-data`; it tries for minutes to read what is missing, which is one, too."""
    environment = os.environ | {"RESTIC_PASSWORD": PASSWORD, "RESTIC_REPOSITORY": str(folder)}
    command = ["restic", "--no-cache", "check", "--read-data"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stderr is not None
        complaints = []
        for line in run.stderr:
            complaints.append(line)
            if "retrying after" in line:
                run.kill()
        assert run.wait(60) == 0 or complaints
        return not complaints
