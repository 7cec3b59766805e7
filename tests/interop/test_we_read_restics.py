# SPDX-License-Identifier: Apache-2.0
"""Donjon reads what stock restic writes, to the byte, and adds to it."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from donjon.repository.format.blob import BlobType, parse_id
from donjon.repository.format.go_json import encode, unquote_name
from donjon.repository.format.index_file import decode_index
from donjon.repository.format.snapshot import decode_snapshot, encode_snapshot
from donjon.repository.format.tree import decode_tree, encode_tree
from donjon.repository.lock import LockFile, held, load_locks
from donjon.repository.reader import find_node, load_tree, read_file
from donjon.repository.repository import Repository
from donjon.repository.store import FileType
from donjon.repository.stores.local import LocalStore
from tests.interop.conftest import KIB512, disk_at
from tests.interop.stock_restic import Restic
from tests.unit.repository.disks import PASSWORD, Disk, back_up, random_bytes, restored

pytestmark = pytest.mark.interop

NAMES = [
    b"plain", b"two words", b'quo"te', b"back\\slash", b"new\nline", b"tab\t", b"bell\a\b\f\r\v", b"esc\x1b",
    b"\xff\xfe invalid", b"caf\xe9", b"\xed\xa0\x80 surrogate", b"<html>&amp;", "é日本".encode(), "\U0001f600".encode(),
    "line\u2028separator\u2029".encode(), "nbsp\u00a0soft\u00adhyphen".encode(), "private\ue000".encode(),
    "unassigned\u0378\U000e0001".encode(), "\ufffd replacement".encode(), "\ufeff bom".encode(), "\u0085 c1".encode(),
    "\U0001fae9 new in Unicode 16".encode(), b"-", b"...", b"'", b"x" * 255, "é".encode() * 127, b"\\x41", b"%s",
    b"\x01", b"del\x7f",
]  # fmt: skip


def awkward(place: Path) -> dict[bytes, bytes]:
    """A directory of everything that is hard to write down; the contents of its files by name."""
    place.mkdir()
    contents = {}
    for number, name in enumerate(NAMES):
        contents[name] = random_bytes(number * 997, number)
        Path(os.fsdecode(os.fsencode(place) + b"/" + name)).write_bytes(contents[name])
    (place / "directory").mkdir(mode=0o1777)
    (place / "directory" / "inner").symlink_to('../<somewhere> & \u2028 "else"')
    (place / "dangling").symlink_to("new\nline\ttab")
    (place / "empty").write_bytes(b"")
    os.link(place / "plain", place / "hard link")
    (place / "setuid").write_bytes(b"#!")
    (place / "setuid").chmod(0o6755)
    with (place / "sparse").open("wb") as file:
        file.truncate(3 << 20)
    os.utime(place / "sparse", ns=(1, 123_456_789_120))
    os.mkfifo(place / "fifo")
    with suppress(OSError):
        os.setxattr(place / "setuid", "user.comment", b"\x00binary\xff")
        os.setxattr(place / "setuid", "user.<empty>", b"")
    if os.geteuid() == 0:
        os.mknod(place / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(place / "loop", stat.S_IFBLK | 0o660, os.makedev(7, 300))
        os.chown(place / "empty", 12345, 54321)
    return contents


@pytest.fixture
def theirs(binary: str, tmp_path: Path) -> Restic:
    restic = Restic(binary, tmp_path / "theirs")
    restic.run("init")
    return restic


def opened(restic: Restic) -> Repository:
    return Repository.open(LocalStore(restic.place), PASSWORD)


def trees_in(repository: Repository) -> Iterator[bytes]:
    for info in repository.store.list(FileType.INDEX):
        for pack in decode_index(repository.files.load(FileType.INDEX, info.name)):
            yield from (parse_id(blob.id) for blob in pack.blobs if blob.type == "tree")


def test_what_we_decode_we_encode_to_the_same_bytes(theirs: Restic, tmp_path: Path) -> None:
    awkward(tmp_path / "source")
    theirs.run("backup", "--tag", "a,b", "--host", "hö<st>", "--exclude", "*.no", tmp_path / "source")
    theirs.run("backup", "--time", "2024-02-29 12:00:00", tmp_path / "source" / "directory")
    repository = opened(theirs)
    count = 0
    for blob in trees_in(repository):
        text = repository.load_blob(BlobType.TREE, blob)
        assert encode_tree(decode_tree(text).nodes) == text
        count += 1
    assert count >= 4
    for name, _ in repository.snapshots():
        text = repository.files.load(FileType.SNAPSHOT, name)
        assert encode_snapshot(decode_snapshot(text)) == text


def test_names_and_contents_are_those_of_the_files(theirs: Restic, tmp_path: Path) -> None:
    contents = awkward(tmp_path / "source")
    theirs.run("backup", tmp_path / "source")
    repository = opened(theirs)
    ((_, snapshot),) = repository.snapshots()
    source = find_node(repository, parse_id(snapshot.tree), str(tmp_path / "source"))
    nodes = {os.fsencode(unquote_name(n.name)): n for n in load_tree(repository, parse_id(source.subtree or "")).nodes}
    assert nodes.keys() == {os.fsencode(name) for name in os.listdir(tmp_path / "source")}
    for name, content in contents.items():
        assert b"".join(read_file(repository, nodes[name])) == content


def test_its_locks_are_read_to_the_byte(theirs: Restic) -> None:
    held = subprocess.Popen(
        theirs.command("backup", "--stdin", "--stdin-filename", "x"),
        env=theirs.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    try:
        while not (names := [info.name for info in LocalStore(theirs.place).list(FileType.LOCK)]):
            assert held.poll() is None
        (name,) = names
        text = opened(theirs).files.load(FileType.LOCK, name)
        lock = msgspec.json.decode(text, type=LockFile)
        assert encode(lock) == text
        assert (lock.pid, lock.exclusive) == (held.pid, False)
    finally:
        assert held.stdin
        held.stdin.close()
        held.wait(60)


def test_we_back_up_into_a_repository_that_restic_made(theirs: Restic, tmp_path: Path) -> None:
    awkward(tmp_path / "source")
    theirs.run("backup", tmp_path / "source")
    repository = opened(theirs)
    saved = back_up(repository, Disk(disk_at(1)), name="web", block_size=KIB512)
    theirs.run("backup", tmp_path / "source")
    theirs.check()
    assert theirs.run("dump", saved.snapshot, "/web/vda/vda.raw") == disk_at(1)
    assert restored(opened(theirs), saved.snapshot, "web", KIB512) == disk_at(1)
    theirs.run("restore", "latest", "--path", tmp_path / "source", "--target", tmp_path / "target")
    copy = tmp_path / "target" / str(tmp_path / "source").lstrip("/")
    assert sorted(os.listdir(os.fsencode(copy))) == sorted(os.listdir(os.fsencode(tmp_path / "source")))


def test_a_repository_of_version_1_is_read(binary: str, tmp_path: Path) -> None:
    theirs = Restic(binary, tmp_path / "old")
    theirs.run("init", "--repository-version", "1")
    (tmp_path / "file").write_bytes(b"old content")
    theirs.run("backup", tmp_path / "file")
    repository = opened(theirs)
    ((_, snapshot),) = repository.snapshots()
    node = find_node(repository, parse_id(snapshot.tree), str(tmp_path / "file"))
    assert b"".join(read_file(repository, node)) == b"old content"


def test_stock_restic_reads_our_lock_on_a_repository_of_version_1(restic: Restic, tmp_path: Path) -> None:
    """Files of version 1 are not compressed, and a lock that restic cannot read stops it."""
    place = tmp_path / "old"
    subprocess.run(
        [restic.binary, "-r", place, "init", "--repository-version", "1"],
        env={**os.environ, "RESTIC_PASSWORD": PASSWORD},
        check=True,
        capture_output=True,
    )
    ours = Repository.open(LocalStore(place), PASSWORD)
    with held(ours.files):
        for name, _ in load_locks(ours.files):
            shown = subprocess.run(
                [restic.binary, "-r", place, "--no-lock", "cat", "lock", name],
                env={**os.environ, "RESTIC_PASSWORD": PASSWORD},
                check=True,
                capture_output=True,
            )
            assert str(os.getpid()) in shown.stdout.decode()
