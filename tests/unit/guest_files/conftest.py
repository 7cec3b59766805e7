# SPDX-License-Identifier: Apache-2.0
"""Small disks with file systems on them, made by the tools that are there."""

from __future__ import annotations

import hashlib
import shutil
import stat
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from donjon.guest_files.content import files_of
from donjon.guest_files.guest import guest_files
from donjon.guest_files.messages import Entry, Problem, Volume

TOOLS = "/usr/sbin:/sbin:/usr/bin:/bin"


class MemoryDisk:
    """A disk of bytes that remembers what was read."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.size = len(content)
        self.reads: list[tuple[int, int]] = []

    def read(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        return self.content[offset : offset + length]


@dataclass
class Seen:
    """What is on a disk: entries by path, hashes of contents, and what could not be read."""

    volumes: tuple[Volume, ...] = ()
    entries: dict[str, Entry] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def tool(name: str) -> str:
    """A program's path; the test is skipped if it is not installed."""
    found = shutil.which(name, path=TOOLS)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def call(name: str, *words: str | Path | int) -> None:
    done = subprocess.run([tool(name), *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def look(disks: list[tuple[str, MemoryDisk]], volume: str, *path: str, passphrases: tuple[str, ...] = ()) -> Seen:
    """Everything at and below a path of a volume."""
    with guest_files(disks, passphrases) as guest:
        seen = Seen(guest.volumes)
        for found in files_of(guest.walk(volume, path, full=True)):
            if isinstance(found, Problem):
                seen.problems.append(found)
                continue
            entry, content = found
            name = "/".join(entry.path)
            seen.entries[name] = entry
            if entry.ranges is not None and not entry.unreadable:
                seen.contents[name] = _digest(entry, b"".join(content))
    return seen


def _digest(entry: Entry, data: bytes) -> str:
    whole, at = bytearray(entry.size), 0
    for offset, length in entry.ranges or ():
        whole[offset : offset + length] = data[at : at + length]
        at += length
    return hashlib.sha256(whole).hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """Hashes of the files below a directory, by path."""
    files = [path for path in folder.rglob("*") if stat.S_ISREG(path.lstat().st_mode)]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def fill(folder: Path) -> Path:
    """A few files of the kinds that are easily got wrong."""
    (folder / "etc" / "deep").mkdir(parents=True)
    (folder / "etc" / "hostname").write_text("web01\n")
    (folder / "etc" / "hostname").chmod(0o640)
    (folder / "etc" / "same").hardlink_to(folder / "etc" / "hostname")
    (folder / "etc" / "link").symlink_to("../etc/hostname")
    (folder / "etc" / "long").symlink_to("x" * 120)
    (folder / "etc" / "100 bytes").write_bytes(b"y" * 100)
    (folder / "etc" / "new\nline ü").write_text("n")
    (folder / "etc" / "deep" / "big").write_bytes(bytes(range(256)) * 4097)
    (folder / "empty").touch()
    with (folder / "sparse").open("wb") as file:
        file.truncate(3 << 20)
        file.seek(2 << 20)
        file.write(b"in the middle")
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory with files in it."""
    return fill(tmp_path / "source")


def make_ext(path: Path, source: Path, *words: str, size: int = 8 << 20) -> bytes:
    """An ext file system with the files of a directory; its bytes."""
    with path.open("wb") as file:
        file.truncate(size)
    call("mke2fs", "-q", "-F", "-d", source, *words, path)
    return path.read_bytes()
