# SPDX-License-Identifier: Apache-2.0
"""What a guest's file systems hold is what was put in."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from donjon.errors import IntegrityError
from donjon.guest_files.content import files_of
from donjon.guest_files.file_systems.file_system import Attributes, Extras, Node
from donjon.guest_files.folder import Folder
from donjon.guest_files.guest import EVERYTHING, guest_files
from donjon.guest_files.messages import Entry, Problem, Walk
from donjon.guest_files.places import find_place
from donjon.guest_files.reader import described
from tests.unit.guest_files.conftest import MemoryDisk, call, digests, look, make_ext

EXT = {
    "ext2": ("-t", "ext2"),
    "ext4": ("-t", "ext4", "-b", "4096"),
    "ext4, data in inodes": ("-t", "ext4", "-O", "inline_data", "-I", "256"),
    "ext4, small blocks": ("-t", "ext4", "-b", "1024", "-O", "^extent,^64bit"),
}


@pytest.mark.parametrize("words", EXT.values(), ids=EXT)
def test_ext_gives_back_what_was_put_in(tmp_path: Path, source: Path, words: tuple[str, ...]) -> None:
    if "inline_data" in words:
        (source / "sparse").unlink()  # mke2fs 1.47 gets its size wrong, by the kernel's account too
    os.utime(source / "etc" / "hostname", ns=(10**9, 981173106 * 10**9))
    os.setxattr(source / "etc" / "same", "user.comment", b"note" * 20)
    seen = look([("vda", MemoryDisk(make_ext(tmp_path / "image", source, *words)))], "vda")
    files = seen.entries
    assert seen.problems == []
    assert seen.contents.pop("lost+found", None) is None
    assert seen.contents == digests(source)
    for name in ("etc", "etc/deep/big", "etc/hostname"):
        truth = (source / name).lstat()
        assert (files[name].mode, files[name].uid, files[name].gid) == (truth.st_mode, truth.st_uid, truth.st_gid)
    assert files["etc/hostname"].mtime_ns == 981173106 * 10**9
    assert files["etc/hostname"].inode == files["etc/same"].inode
    assert files["etc/hostname"].links == 2
    assert files["etc/link"].target == "../etc/hostname"
    assert files["etc/long"].target == "x" * 120
    for name in ("etc/hostname", "etc/same"):
        assert files[name].xattrs == {"user.comment": b"note" * 20}


def test_holes_stay_holes(tmp_path: Path, source: Path) -> None:
    seen = look(
        [("vda", MemoryDisk(make_ext(tmp_path / "image", source, "-t", "ext4", "-b", "4096")))], "vda", "sparse"
    )
    assert seen.entries["sparse"].ranges == [(2 << 20, 4096)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device nodes and privileged attributes")
def test_devices_acls_and_capabilities_are_kept(tmp_path: Path, source: Path) -> None:
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, mode, name)
        for tag, mode, name in [
            (1, 6, 2**32 - 1),
            (2, 4, 1234),
            (4, 4, 2**32 - 1),
            (16, 4, 2**32 - 1),
            (32, 0, 2**32 - 1),
        ]
    )
    os.mknod(source / "disk", 0o60600, os.makedev(259, 70000))
    os.mknod(source / "null", 0o20666, os.makedev(1, 3))
    os.setxattr(source / "empty", "system.posix_acl_access", acl)
    os.setxattr(source / "empty", "security.selinux", b"system_u:object_r:etc_t:s0\0")
    files = look([("vda", MemoryDisk(make_ext(tmp_path / "image", source, "-t", "ext4")))], "vda").entries
    assert (files["disk"].device, files["null"].device) == ((259, 70000), (1, 3))
    assert files["empty"].xattrs == {
        "system.posix_acl_access": acl,
        "security.selinux": b"system_u:object_r:etc_t:s0\0",
    }


@pytest.mark.parametrize("words", [(), ("-m", "crc=0")], ids=["version 5", "version 4"])
def test_xfs_gives_back_what_was_put_in(tmp_path: Path, words: tuple[str, ...]) -> None:
    content = tmp_path / "content"
    content.write_bytes(os.urandom(100_000))
    proto = tmp_path / "proto"
    proto.write_text(
        f"boot\n1 1\nd--755 0 0\nhosts ---640 1000 1001 {content}\ndir d--700 5 6\ninner ---600 0 0 {content}\n$\n"
        "link l--777 0 0 dir/inner\nnode b--600 0 0 8 17\n$\n"
    )
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(300 << 20)
    call("mkfs.xfs", "-q", "-L", "data", *words, "-p", proto, image)
    with image.open("rb") as file:
        disk = FileDisk(file.fileno(), 300 << 20)
        seen = look([("sda", disk)], "sda")  # type: ignore[list-item]
    assert (seen.volumes[0].content, seen.volumes[0].label) == ("xfs", "data")
    assert seen.problems == []
    assert set(seen.contents.values()) == set(digests_of(content))
    assert (seen.entries["hosts"].mode, seen.entries["hosts"].uid, seen.entries["hosts"].gid) == (0o100640, 1000, 1001)
    assert seen.entries["link"].target == "dir/inner"
    assert seen.entries["node"].device == (8, 17)


class FileDisk:
    """A disk that is a file."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.size = size
        self._descriptor = descriptor

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, offset)


def digests_of(file: Path) -> list[str]:
    return [value for name, value in digests(file.parent).items() if name == file.name]


def test_ntfs_gives_back_what_was_put_in(tmp_path: Path) -> None:
    image, content = tmp_path / "image", tmp_path / "content"
    content.write_bytes(os.urandom(70_000))
    with image.open("wb") as file:
        file.truncate(8 << 20)
    call("mkntfs", "-q", "-F", "-L", "system", image)
    call("ntfscp", "-q", image, content, "letter ü.txt")
    seen = look([("hda", MemoryDisk(image.read_bytes()))], "hda")
    assert seen.volumes[0].label == "system"
    assert seen.contents == {"letter ü.txt": digests_of(content)[0]}
    assert "system.ntfs_acl" in seen.entries[""].xattrs


def test_fat_in_a_partition_gives_back_what_was_put_in(tmp_path: Path) -> None:
    source, image = tmp_path / "files", tmp_path / "image"
    (source / "dir").mkdir(parents=True)
    (source / "dir" / "random").write_bytes(os.urandom(70_000))
    (source / "a long name, and ü.txt").write_text("hello")
    os.utime(source / "dir" / "random", (981173106, 981173106))
    call("qemu-img", "convert", "-O", "raw", f"fat:12:{source}", image)
    seen = look([("vda", MemoryDisk(image.read_bytes()))], "vda1")
    assert seen.contents == digests(source)
    assert seen.entries["dir/random"].mtime_ns == 981173106 * 10**9


def test_a_link_on_the_way_is_followed_within_the_volume(tmp_path: Path, source: Path) -> None:
    (source / "way").symlink_to("/etc/../../etc/deep")
    (source / "round").symlink_to("round/round")
    disk = MemoryDisk(make_ext(tmp_path / "image", source))
    assert list(look([("vda", disk)], "vda", "way", "big").contents) == ["etc/deep/big"]
    assert list(look([("vda", disk)], "vda", "way").contents) == []
    with pytest.raises(FileNotFoundError):
        look([("vda", disk)], "vda", "round", "x")


def test_what_is_missing_is_said_and_the_next_question_answered(tmp_path: Path, source: Path) -> None:
    disk = MemoryDisk(make_ext(tmp_path / "image", source))
    with guest_files([("vda", disk)]) as guest:
        for _ in range(2):
            with pytest.raises(FileNotFoundError):
                list(guest.walk("vda", ["etc", "nothing"]))
        assert len(list(guest.walk("vda", ["etc"], depth=0))) == 1


class DamagedDisk(MemoryDisk):
    """A disk with a block that the repository cannot give back."""

    def __init__(self, content: bytes, at: int) -> None:
        super().__init__(content)
        self._at = at

    def read(self, offset: int, length: int) -> bytes:
        if offset <= self._at < offset + length:
            raise IntegrityError("cannot read a block: it is damaged")
        return super().read(offset, length)


def test_a_damaged_block_costs_its_file_and_nothing_else(tmp_path: Path, source: Path) -> None:
    mark = os.urandom(512)
    for name in ("a", "b", "c"):
        (source / name).write_bytes((mark if name == "b" else b"x") * 1000)
    image = make_ext(tmp_path / "image", source, "-t", "ext4", "-b", "4096", size=16 << 20)
    disk = DamagedDisk(image, image.index(mark * 8) + (256 << 10))
    with guest_files([("vda", disk)]) as guest:
        written = Folder(tmp_path / "to", "vda").write(files_of(guest.walk("vda", [], full=True)))
    expected = digests(source)
    del expected["b"]
    assert digests(tmp_path / "to" / "vda") == expected
    assert [problem.path for problem in written.problems] == [["b"]]
    assert "damaged" in written.problems[0].reason


def test_a_slash_at_the_end_follows_a_link(tmp_path: Path, source: Path) -> None:
    (source / "way").symlink_to("etc")
    with guest_files([("vda", MemoryDisk(make_ext(tmp_path / "image", source)))]) as guest:
        found = {}
        for path in ("/way", "/way/"):
            place = find_place(guest, path)
            assert place is not None
            first = next(iter(list(guest.walk(place.volume, place.path, depth=0))))
            assert isinstance(first, Entry)
            found[path] = first.path
    assert found == {"/way": ["way"], "/way/": ["etc"]}


def test_a_directory_that_is_too_deep_is_said_to_be() -> None:
    found = list(described([], Deep(1), Walk("vda", [], EVERYTHING, full=False)))
    assert sum(isinstance(item, Entry) for item in found) == 4097
    assert [item.reason for item in found if isinstance(item, Problem)] == ["it is too deep: what it holds is not read"]


class Deep:
    """A directory in a directory, without end."""

    name = "d"

    def __init__(self, level: int) -> None:
        self._level = level

    def attributes(self) -> Attributes:
        return Attributes(0o40755, 0, 0, self._level)

    def extras(self) -> Extras:
        return Extras()

    def children(self) -> Iterator[Node | str]:
        yield Deep(self._level + 1)

    def read(self, offset: int, length: int) -> bytes:
        raise AssertionError(offset, length)


def test_an_xfs_with_a_realtime_part_says_that_files_may_be_missing(tmp_path: Path) -> None:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(300 << 20)
    call("mkfs.xfs", "-q", "-m", "crc=0", image)
    with image.open("r+b") as made:
        made.seek(16)
        made.write((1000).to_bytes(8, "big"))
        made.flush()
        with guest_files([("sda", FileDisk(made.fileno(), 300 << 20))]) as guest:
            assert "realtime" in guest.volumes[0].note


def test_one_file_is_read_without_the_rest(tmp_path: Path, source: Path) -> None:
    (source / "bulk").write_bytes(os.urandom(4 << 20))
    disk = MemoryDisk(make_ext(tmp_path / "image", source, size=16 << 20))
    look([("vda", disk)], "vda", "etc", "hostname")
    assert sum(length for _, length in disk.reads) < 2 << 20
