# SPDX-License-Identifier: Apache-2.0
"""Archives and directories hold what was found, and nothing in a guest's names leads out of them."""

from __future__ import annotations

import errno
import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from donjon.errors import IntegrityError, RefusedError
from donjon.guest_files.content import CutShortError
from donjon.guest_files.folder import Folder, Written
from donjon.guest_files.messages import Entry, Problem
from donjon.guest_files.tar import write_tar
from tests.unit.guest_files.conftest import tool

ROOT = os.geteuid() == 0
Found = tuple[Entry, Iterator[bytes]] | Problem


def entry(path: str, mode: int = 0o100644, data: bytes = b"", **more: object) -> Found:
    ranges = ([(0, len(data))] if data else []) if stat.S_ISREG(mode) else None
    common = {"uid": os.getuid(), "gid": os.getgid(), "size": len(data), "mtime_ns": 10**18 + 1, "inode": hash(path)}
    known = {**common, "links": 1, "ranges": ranges, **more}
    return Entry(path=path.split("/") if path else [], mode=mode, **known), iter([data] if data else [])  # type: ignore[arg-type]


def tree() -> list[Found]:
    holes = {"size": 1 << 20, "ranges": [(4096, 512), (499_712, 512)]}
    return [
        entry("etc", 0o40750, mtime_ns=123456789),
        entry(
            "etc/hosts", 0o100640, b"127.0.0.1", mtime_ns=-1_500_000_000, inode=7, links=2, xattrs={"user.a": b"\0\xff"}
        ),
        entry("etc/same", 0o100640, b"127.0.0.1", inode=7, links=2),
        entry("etc/holes", 0o100600, b"abc" + bytes(509) + b"defg" + bytes(508), **holes),
        entry("etc/link", 0o120777, target="/etc/shadow"),
        entry("etc/" + "long" * 60, 0o100644, b"x"),
        entry("etc/new\nline ü", 0o100644, b"y"),
        entry("etc/pipe", 0o10600),
        entry("etc/socket", 0o140600),
        Problem(["etc", "bad"], "it is damaged"),
    ]


def archive(files: list[Found]) -> tuple[bytes, list[Problem]]:
    out = io.BytesIO()
    problems = write_tar(files, out.write)
    return out.getvalue(), problems


def check_tree(folder: Path) -> None:
    assert (folder / "hosts").read_bytes() == b"127.0.0.1"
    assert (folder / "hosts").stat().st_mtime_ns == -1_500_000_000
    assert os.getxattr(folder / "hosts", "user.a") == b"\0\xff"
    assert (folder / "hosts").stat().st_ino == (folder / "same").stat().st_ino
    assert stat.S_IMODE((folder / "hosts").stat().st_mode) == 0o640
    holes = (folder / "holes").read_bytes()
    assert (len(holes), holes[4096:4099], holes[499_712:499_716]) == (1 << 20, b"abc", b"defg")
    assert holes.count(b"\0") == (1 << 20) - 7
    assert (folder / "holes").stat().st_blocks < 200
    assert (folder / "link").readlink() == Path("/etc/shadow")
    assert (folder / ("long" * 60)).read_bytes() == b"x"
    assert (folder / "new\nline ü").read_bytes() == b"y"
    assert stat.S_ISFIFO((folder / "pipe").stat().st_mode)
    assert folder.stat().st_mtime_ns == 123456789
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750


def test_gnu_tar_unpacks_all_of_an_archive(tmp_path: Path) -> None:
    data, problems = archive(tree())
    words = [tool("tar"), "-C", str(tmp_path), "--xattrs", "--xattrs-include=*", "--warning=no-timestamp", "-xpf", "-"]
    done = subprocess.run(words, input=data, capture_output=True, check=False)
    assert (done.stderr, done.returncode) == (b"", 0)
    check_tree(tmp_path / "etc")
    assert [problem.path[-1] for problem in problems] == ["socket", "bad"]


def test_pythons_tarfile_reads_an_archive() -> None:
    data, _ = archive(
        [*tree(), entry("big ids", uid=3_000_000, gid=2**32 - 2), entry("disk", 0o60600, device=(259, 70000))]
    )
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = {member.name: member for member in tar}
        extracted = tar.extractfile("etc/holes")
        assert extracted is not None
        assert extracted.read()[499_712:499_716] == b"defg"
    assert (members["big ids"].uid, members["big ids"].gid) == (3_000_000, 2**32 - 2)
    assert (members["disk"].devmajor, members["disk"].devminor) == (259, 70000)
    assert members["etc/same"].linkname == "etc/hosts"


def test_holes_that_fit_no_blocks_are_written_as_zeros() -> None:
    data, _ = archive([entry("holes", data=b"abcdefg", size=2000, ranges=[(100, 3), (1000, 4)])])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        extracted = tar.extractfile("holes")
        assert extracted is not None
        assert extracted.read() == bytes(100) + b"abc" + bytes(897) + b"defg" + bytes(996)


def test_an_archive_of_a_file_that_is_cut_short_is_an_error() -> None:
    with pytest.raises(IntegrityError):
        archive([(entry("a", data=b"abcd")[0], iter([b"ab"]))])  # type: ignore[index]


def test_a_directory_is_restored_with_all_that_belongs_to_it(tmp_path: Path) -> None:
    written = Folder(tmp_path / "new", "etc").write(tree())
    check_tree(tmp_path / "new" / "etc")
    assert (written.files, written.size) == (9, 9 + 1024 + 1 + 1)
    assert [problem.path[-1] for problem in written.problems] == ["socket", "bad"]


@pytest.mark.parametrize("force", [False, True])
def test_nothing_is_replaced_unless_it_is_said(tmp_path: Path, force: bool) -> None:
    (tmp_path / "hosts").write_text("mine")

    def restore() -> Written:
        return Folder(tmp_path, "hosts", force=force).write([entry("etc/hosts", data=b"theirs")])

    if force:
        restore()
    else:
        with pytest.raises(RefusedError):
            restore()
    assert (tmp_path / "hosts").read_text() == ("theirs" if force else "mine")
    assert [path.name for path in tmp_path.iterdir()] == ["hosts"]


@pytest.mark.parametrize("force", [False, True])
def test_a_link_in_the_way_is_never_followed(tmp_path: Path, force: bool) -> None:
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    hostile = [
        entry("etc", 0o40755),
        entry("etc/way", 0o120777, target=str(outside)),
        entry("etc/way", 0o40755),
        entry("etc/way/planted", data=b"bad"),
        entry("etc/file", 0o120777, target=str(outside / "file")),
        entry("etc/file", data=b"bad"),
    ]
    if force:
        with pytest.raises(RefusedError):
            Folder(target, "etc", force=True).write(hostile)
        Folder(tmp_path / "again", "etc", force=True).write([hostile[0], *hostile[4:]])
    else:
        with pytest.raises(RefusedError):
            Folder(target, "etc").write(hostile)
    assert list(outside.iterdir()) == []


def test_a_file_that_is_cut_short_is_not_there_and_the_rest_is(tmp_path: Path) -> None:
    broken = (entry("etc/a", data=b"abcd")[0], failing(CutShortError("it is damaged")))  # type: ignore[index]
    written = Folder(tmp_path, "etc").write([entry("etc", 0o40755), broken, entry("etc/b", data=b"b")])
    assert [path.name for path in (tmp_path / "etc").iterdir()] == ["b"]
    assert len(written.problems) == 1


def failing(error: Exception) -> Iterator[bytes]:
    yield b"ab"
    raise error


def test_what_is_more_than_one_files_damage_ends_it_all(tmp_path: Path) -> None:
    broken = (entry("etc/a", data=b"abcd")[0], failing(IntegrityError("the reader talks nonsense")))  # type: ignore[index]
    with pytest.raises(IntegrityError, match="nonsense"):
        Folder(tmp_path, "etc").write([entry("etc", 0o40755), broken, entry("etc/b", data=b"b")])


def test_a_directory_that_cannot_be_made_costs_what_is_in_it_and_nothing_else(tmp_path: Path) -> None:
    name = "long" * 70
    lost = [entry(f"etc/{name}", 0o40755), entry(f"etc/{name}/a", data=b"a")]
    written = Folder(tmp_path, "etc").write([entry("etc", 0o40755), *lost, entry("etc/b", data=b"b")])
    assert [path.name for path in (tmp_path / "etc").iterdir()] == ["b"]
    assert len(written.problems) == 2


@pytest.mark.parametrize("name", ["", ".", "..", "a/b"])
def test_what_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RefusedError, match="no name"):
        Folder(tmp_path / "target", name, force=True).write([entry("", 0o40700), entry("planted", data=b"bad")])
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_was_swapped_for_a_link_leads_nowhere(tmp_path: Path) -> None:
    outside, sub = tmp_path / "outside", tmp_path / "target" / "etc" / "sub"
    outside.mkdir(mode=0o700)

    def swapped() -> Iterator[Found]:
        yield entry("etc", 0o40755)
        yield entry("etc/sub", 0o40777, mtime_ns=123456789, xattrs={"user.a": b"1"})
        sub.rename(tmp_path / "target" / "moved")
        sub.symlink_to(outside)

    Folder(tmp_path / "target", "etc").write(swapped())
    assert stat.S_IMODE(outside.stat().st_mode) == 0o700
    assert os.listxattr(outside) == []
    assert (tmp_path / "target" / "moved").stat().st_mtime_ns == 123456789


def test_a_security_descriptor_of_ntfs_is_noted_once_where_it_has_no_place(tmp_path: Path) -> None:
    descriptor = {"system.ntfs_acl": b"\1"}
    files = [entry("d", 0o40755, xattrs=descriptor), entry("d/a", data=b"a", xattrs=descriptor)]
    written = Folder(tmp_path, "d").write(files)
    assert (written.files, written.problems, len(written.notes)) == (2, [], 1)


@pytest.mark.parametrize("taken", [False, True], ids=["free", "taken"])
def test_where_there_are_no_hard_links_files_are_written_all_the_same(tmp_path: Path, taken: bool) -> None:
    def link(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if taken:
        (tmp_path / "a").write_text("mine")
        with pytest.raises(RefusedError):
            Folder(tmp_path, "a", link=link).write([entry("a", data=b"theirs")])
        assert (tmp_path / "a").read_text() == "mine"
        return
    names = [entry(f"etc/{name}", data=b"theirs", inode=7, links=2) for name in ("a", "b")]
    written = Folder(tmp_path, "etc", link=link).write([entry("etc", 0o40755), *names])
    assert (written.files, written.problems) == (3, [])
    assert [(tmp_path / "etc" / name).read_text() for name in ("a", "b")] == ["theirs", "theirs"]


def test_a_second_entry_of_the_same_path_is_not_archived_nor_what_is_in_it() -> None:
    outside = [entry("d/way", 0o120777, target="/etc"), entry("d/way", 0o40755), entry("d/way/passwd", data=b"bad")]
    data, problems = archive([entry("d", 0o40755), *outside, entry("d/after", data=b"x")])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == ["d", "d/way", "d/after"]
    assert [problem.path for problem in problems] == [["d", "way"], ["d", "way", "passwd"]]


@pytest.mark.skipif(not ROOT, reason="only root gives files away and makes devices")
def test_owners_are_kept_and_devices_made_only_if_it_is_said(tmp_path: Path) -> None:
    files = [entry("dev", 0o40755, uid=5, gid=6), entry("dev/disk", 0o60660, device=(259, 70000), uid=1, gid=2)]
    written = Folder(tmp_path / "a", "dev").write(list(files))
    assert (len(written.problems), list((tmp_path / "a" / "dev").iterdir())) == (1, [])
    Folder(tmp_path / "b", "dev", devices=True).write(list(files))
    node = (tmp_path / "b" / "dev" / "disk").lstat()
    assert (node.st_rdev, node.st_uid, node.st_gid, stat.S_IMODE(node.st_mode)) == (os.makedev(259, 70000), 1, 2, 0o660)
    assert (tmp_path / "b" / "dev").stat().st_uid == 5
