# SPDX-License-Identifier: Apache-2.0
"""Files out of a restore point are what the kernel itself says they are; no guest is needed, but root is."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from donjon.errors import DonjonError
from donjon.guest_files.content import files_of
from donjon.guest_files.guest import guest_files

MIB = 1 << 20
TOOLS = "/usr/sbin:/sbin:/usr/bin:/bin"
MAKERS = {
    "ext2": ("mke2fs", "-q", "-F", "-t", "ext2"),
    "ext3": ("mke2fs", "-q", "-F", "-t", "ext3"),
    "ext4": ("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096"),
    "ext4-inline": ("mke2fs", "-q", "-F", "-t", "ext4", "-O", "inline_data", "-I", "256"),
    "ext4-1k": ("mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024"),
    "xfs": ("mkfs.xfs", "-q"),
    "xfs-1k": ("mkfs.xfs", "-q", "-b", "size=1024", "-n", "size=4096"),
    "xfs-plain": ("mkfs.xfs", "-q", "-m", "reflink=0,rmapbt=0,finobt=0,bigtime=0", "-i", "sparse=0"),
}

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")]


class FileDisk:
    """A disk that is a file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self.size = path.stat().st_size

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._file.fileno(), length, offset)


def donjon(*words: str | Path, home: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command(*words), env=environment(home), capture_output=True, check=False)


def command(*words: str | Path) -> list[str]:
    return [str(Path(sys.executable).with_name("donjon")), *map(str, words)]


def environment(home: Path) -> dict[str, str]:
    ours = {"DONJON_REPOSITORY": str(home / "repo"), "DONJON_PASSWORD": "x", "DONJON_STATE_DIR": str(home / "state")}
    return {**os.environ, **ours}


def need(*names: str) -> None:
    for name in names:
        if shutil.which(name, path=f"{TOOLS}:{os.environ['PATH']}") is None:
            pytest.skip(f"{name} is not installed")


@contextmanager
def mounted(image: Path, *options: str) -> Iterator[Path]:
    """A file system, mounted by the kernel."""
    folder = image.with_suffix(".mounted")
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-o", ",".join(["loop", *options]), image, folder], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"the kernel does not mount it: {done.stderr.decode()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def make(kind: str, path: Path) -> None:
    words = MAKERS[kind]
    need(words[0])
    with path.open("wb") as file:
        file.truncate((320 if kind.startswith("xfs") else 64) * MIB)
    subprocess.run([shutil.which(words[0], path=TOOLS) or words[0], *words[1:], path], check=True, capture_output=True)


def fill(folder: Path) -> None:
    """Files of all kinds, by the kernel."""
    dice = random.Random(3)
    for name in ("etc", "many", "deep/er/and/deeper", "acl"):
        (folder / name).mkdir(parents=True)
    for number in range(1500):
        (folder / "many" / f"a file with a name that is rather long {number}").write_bytes(b"x" * (number % 200))
    for size in (1, 59, 60, 61, 100, 159, 1023, 4095, 4096, 4097, 70_000, 3 * MIB):
        (folder / "etc" / f"size {size}").write_bytes(dice.randbytes(size))
    for length in (1, 29, 30, 59, 60, 61, 150, 1000):
        (folder / "etc" / f"link {length}").symlink_to(("target/" * 200)[: length - 1] + "t")
    (folder / "etc" / "same").hardlink_to(folder / "etc" / "size 4096")
    with (folder / "pieces").open("wb") as file:
        for block in range(0, 1500, 2):
            file.seek(block * 4096)
            file.write(dice.randbytes(4096))
    with (folder / "reserved").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, MIB)
        os.pwrite(file.fileno(), b"middle" * 1000, 8192)
    for name, kind, device in (("null", 0o20666, (1, 3)), ("disk", 0o60660, (259, 70_000)), ("pipe", 0o10600, (0, 0))):
        os.mknod(folder / name, kind, os.makedev(*device))
    attributes(folder)


def attributes(folder: Path) -> None:
    target = folder / "etc" / "size 4096"
    os.chown(target, 70_000, 2**31 + 5)
    target.chmod(0o4751)
    for number in range(6):
        os.setxattr(target, f"user.number{number}", bytes([number]) * 30 * number)
    with suppress(OSError):  # ext4 has room for a block of them
        os.setxattr(folder / "etc" / "size 60", "user.large", b"l" * 2000)
        os.setxattr(folder / "etc" / "size 61", "user.larger", b"L" * 12_000)
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    os.setxattr(folder / "etc" / "size 1", "security.capability", capability)
    acl = bytes.fromhex("02000000 01000700ffffffff 02000700d2040000 04000500ffffffff 10000700ffffffff 20000500ffffffff")
    for name in ("access", "default"):
        os.setxattr(folder / "acl", f"system.posix_acl_{name}", acl)
    for name, when in (("etc/size 1", -26_438_399_876_543_211), ("etc/size 59", 2_000_000_000_987_654_321)):
        os.utime(folder / name, ns=(when, when))


def xattrs(path: Path) -> dict[str, bytes]:
    """All but those that XFS shows twice."""
    names = [name for name in os.listxattr(path, follow_symlinks=False) if "SGI_ACL" not in name]
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def truth(folder: Path) -> dict[str, Any]:
    """What the kernel says of everything below a directory."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        status = path.lstat()
        kind = stat.S_IFMT(status.st_mode)
        found[str(path.relative_to(folder))] = {
            "mode": status.st_mode,
            "owner": (status.st_uid, status.st_gid),
            "links": status.st_nlink if kind != stat.S_IFDIR else None,
            "mtime": status.st_mtime_ns,
            "device": status.st_rdev,
            "target": os.readlink(path) if kind == stat.S_IFLNK else "",
            "xattrs": xattrs(path),
            "content": hashlib.sha256(path.read_bytes()).hexdigest() if kind == stat.S_IFREG else None,
        }
    return found


def read(image: Path) -> tuple[dict[str, Any], list[str]]:
    """What donjon says of everything in a file system, and what it says it cannot read."""
    seen, lacking = {}, []
    with guest_files([("vda", FileDisk(image))]) as guest:
        for found in files_of(guest.walk("vda", [], full=True)):
            if not isinstance(found, tuple):
                lacking.append(found.reason)
                continue
            entry, content = found
            assert entry.unreadable == ""
            lacking += entry.lacks
            data = bytearray(entry.size if entry.ranges is not None else 0)
            stream, at = b"".join(content), 0
            for offset, length in entry.ranges or ():
                data[offset : offset + length] = stream[at : at + length]
                at += length
            seen["/".join(entry.path) or "."] = {
                "mode": entry.mode,
                "owner": (entry.uid, entry.gid),
                "links": entry.links if not stat.S_ISDIR(entry.mode) else None,
                "mtime": entry.mtime_ns,
                "device": os.makedev(*entry.device) if entry.device else 0,
                "target": entry.target,
                "xattrs": entry.xattrs,
                "content": hashlib.sha256(data).hexdigest() if stat.S_ISREG(entry.mode) else None,
            }
    return seen, lacking


@pytest.mark.parametrize("kind", MAKERS)
def test_everything_is_as_the_kernel_says(tmp_path: Path, kind: str) -> None:
    image = tmp_path / "image"
    make(kind, image)
    with mounted(image) as folder:
        fill(folder)
    with mounted(image, "ro") as folder:
        expected = truth(folder)
    found, lacking = read(image)
    # What libyal's libraries do not know is said, never passed over: some files that ext keeps in inodes; large values
    # of XFS's attributes, and its files in very many pieces.
    for name, attribute in (("etc/size 60", "user.large"), ("etc/size 61", "user.larger")):
        if any(lack.startswith(f"extended attribute {attribute}:") for lack in lacking):
            del expected[name]["xattrs"][attribute]
            lacking = [lack for lack in lacking if f"{attribute}:" not in lack]
    assert {name: found[name] for name in found if found[name] != expected.get(name)} == {}
    assert len(found) == len(expected) - len(lacking)
    assert len(lacking) <= {"ext4-inline": 100, "xfs-1k": 1}.get(kind, 0)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A repository with a restore point of web01, whose disk is an ext4 that the kernel filled."""
    make("ext4", tmp_path / "disk")
    with mounted(tmp_path / "disk") as folder:
        fill(folder)
    assert donjon("init", home=tmp_path).returncode == 0
    assert donjon("backup", "web01", "--disk", f"vda={tmp_path / 'disk'}", home=tmp_path).returncode == 0
    return tmp_path


def test_a_volume_comes_back_by_folder_and_by_gnu_tar(home: Path) -> None:
    with mounted(home / "disk", "ro") as folder:
        expected = truth(folder)
    got = donjon("files", "get", "web01:/vda", "--to", home / "got", "--devices", home=home)
    assert got.returncode == 0, got.stderr
    assert truth(home / "got" / "vda") == expected
    archive = donjon("files", "tar", "web01:/vda", home=home)
    assert archive.returncode == 0, archive.stderr
    (home / "unpacked").mkdir()
    words = ["tar", "-C", str(home / "unpacked"), "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", "-"]
    subprocess.run(words, input=archive.stdout, check=True, stderr=subprocess.DEVNULL)
    assert truth(home / "unpacked") == expected


@pytest.mark.parametrize("stop", ["unmount", "SIGTERM", "SIGINT"])
def test_disks_are_mounted_until_it_is_enough(home: Path, stop: str) -> None:
    need("fusermount3")
    pytest.importorskip("mfusepy")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("there is no /dev/fuse")
    folder = home / "mounted"
    folder.mkdir()
    process = subprocess.Popen(command("mount", "web01", folder), env=environment(home), stderr=subprocess.DEVNULL)
    try:
        while not folder.is_mount():
            assert process.poll() is None
            time.sleep(0.05)
        assert [path.name for path in folder.iterdir()] == ["vda.raw"]
        assert (folder / "vda.raw").read_bytes() == (home / "disk").read_bytes()
        assert len(list((home / "repo" / "locks").iterdir())) == 1
        with pytest.raises(OSError, match="Read-only"):
            (folder / "vda.raw").open("r+b")
    finally:
        if stop == "unmount":
            subprocess.run(["fusermount3", "-u", folder], check=True)
        else:
            process.send_signal(signal.Signals[stop])
        assert process.wait(30) == 0
    assert not folder.is_mount()
    assert list((home / "repo" / "locks").iterdir()) == []


@pytest.mark.parametrize("kind", ["ext4-1k", "xfs-plain"])
def test_damage_ends_in_order(tmp_path: Path, kind: str) -> None:
    image = tmp_path / "image"
    make(kind, image)
    with mounted(image) as folder:
        fill(folder)
    dice = random.Random(11)
    held = [(at, part) for at in range(0, image.stat().st_size, 4096) if any(part := pread(image, at))]
    for _ in range(15):
        broken = tmp_path / "broken"
        shutil.copyfile(image, broken)
        with broken.open("r+b") as file:
            for _ in range(30):
                at, part = held[dice.randrange(min(len(held), 2000))]
                byte = dice.randrange(len(part))
                file.seek(at + byte)
                file.write(bytes([part[byte] ^ 1 << dice.randrange(8)]))
            if dice.random() < 0.3:
                file.truncate(dice.randrange(MIB, image.stat().st_size))
        with suppress(DonjonError, FileNotFoundError), guest_files([("vda", FileDisk(broken))], patience_s=30) as guest:
            for found in files_of(guest.walk("vda", [], full=True)):
                if isinstance(found, tuple):
                    with suppress(DonjonError):
                        for _ in found[1]:
                            pass


def pread(path: Path, at: int) -> bytes:
    with path.open("rb") as file:
        return os.pread(file.fileno(), 4096, at)


def test_one_file_of_a_disk_of_100_gib_takes_little_memory(tmp_path: Path) -> None:
    make("xfs", tmp_path / "disk")
    os.truncate(tmp_path / "disk", 100 << 30)
    grow = shutil.which("xfs_growfs", path=TOOLS)
    with mounted(tmp_path / "disk") as folder:
        if grow:
            subprocess.run([grow, folder], check=True, capture_output=True)
        (folder / "etc").mkdir()
        (folder / "etc" / "hosts").write_text("127.0.0.1\n")
    assert donjon("init", home=tmp_path).returncode == 0
    assert donjon("backup", "web01", "--disk", f"vda={tmp_path / 'disk'}", home=tmp_path).returncode == 0
    words = ["/usr/bin/env", "python3", "-c", _PEAK, *command("files", "get", "web01:/etc/hosts", "-o", "-")]
    done = subprocess.run(words, env=environment(tmp_path), capture_output=True, check=True)
    assert done.stdout == b"127.0.0.1\n"
    assert int(done.stderr.split()[-1]) < 300 << 10


_PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
"""
