# SPDX-License-Identifier: Apache-2.0
"""Local stores on small real file systems that get full or are read-only, and with writers that are killed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from donjon.errors import StoreError
from donjon.repository.store import FileName, FileType
from donjon.repository.stores.local import LocalStore

MIB = 1024 * 1024


def pack(number: int, size: int) -> tuple[FileName, list[bytes]]:
    content = number.to_bytes(4, "big") * (size // 4)
    return FileName(FileType.PACK, hashlib.sha256(content).hexdigest()), [content[:1000], content[1000:]]


@contextmanager
def mounted(kind: str, place: Path, size_mib: int) -> Iterator[Path]:
    """A file system of its own, mounted while the block runs."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    source, options = Path("none"), f"size={size_mib}m"
    if kind == "ext4":
        source, options = place / "disk.img", "loop"
        source.touch()
        os.truncate(source, size_mib * MIB)
        subprocess.run(["mkfs.ext4", "-q", "-F", source], check=True)
    point = place / "mounted"
    point.mkdir()
    command: list[str | Path] = ["mount", "-t", kind, "-o", options, source, point]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"cannot mount {kind}: {done.stderr.strip()}")
    try:
        yield point
    finally:
        subprocess.run(["umount", point], check=True)


def whole(store: LocalStore) -> int:
    """How many packs are listed; each must be what its name says."""
    infos = list(store.list(FileType.PACK))
    for info in infos:
        content = store.load(FileName(FileType.PACK, info.name))
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (info.name, info.size)
    return len(infos)


@pytest.mark.root
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_full_disk_loses_nothing(tmp_path: Path, kind: str) -> None:
    with mounted(kind, tmp_path, 40) as point:
        store = LocalStore(point / "repository")
        store.create()
        saved = []
        with pytest.raises(StoreError, match="is full"):
            for number in range(1000):
                file, content = pack(number, MIB)
                store.save(file, content)
                saved.append(file)
        assert whole(store) == len(saved) > 10
        assert list(point.glob("**/*-tmp-*")) == []
        for file in saved[:2]:
            store.delete(file)
        store.save(*pack(1001, MIB))
        assert whole(store) == len(saved) - 1


@pytest.mark.root
def test_a_read_only_disk_can_be_read_and_says_why_it_takes_nothing(tmp_path: Path) -> None:
    file, content = pack(1, 4096)
    with mounted("tmpfs", tmp_path, 4) as point:
        store = LocalStore(point)
        store.create()
        store.save(file, content)
        subprocess.run(["mount", "-o", "remount,ro", point], check=True)
        store = LocalStore(point)
        assert (store.load(file), store.size(file), whole(store)) == (b"".join(content), 4096, 1)
        with pytest.raises(StoreError, match="read-only"):
            store.save(*pack(2, 4096))
        with pytest.raises(StoreError, match="read-only"):
            store.delete(file)
        assert whole(store) == 1


KILLED = """
import sys
from pathlib import Path
from donjon import trace
from donjon.repository.store import FileName, FileType
from donjon.repository.stores.local import LocalStore
from donjon.testing.faults import kill_this_process
root, name, where = sys.argv[1:]
with trace.listening(lambda point: kill_this_process() if point == where else None):
    LocalStore(Path(root)).save(FileName(FileType.PACK, name), [b"whole"])
"""


@pytest.mark.parametrize(
    ("point", "there"), [("store.temp-written", False), ("store.published", True), ("store.saved", True)]
)
def test_a_writer_that_is_killed_leaves_a_whole_file_or_none(tmp_path: Path, point: str, there: bool) -> None:
    store = LocalStore(tmp_path)
    store.create()
    file = FileName(FileType.PACK, hashlib.sha256(b"whole").hexdigest())
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path, file.name, point], check=False)
    assert killed.returncode == -9
    assert whole(store) == there
    if not there:
        store.save(file, [b"whole"])
    assert store.load(file) == b"whole"
    assert store.sweep_temporary(older_than_s=-1) == (0 if there else 1)
    assert whole(store) == 1
