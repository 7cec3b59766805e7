# SPDX-License-Identifier: Apache-2.0
"""What is said of guests' files, to people and programs."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from donjon.cli.page import Page
from donjon.cli.result import Deed, Point, Result
from donjon.cli.text import count, moment, size
from donjon.errors import IncompleteError
from donjon.guest_files.messages import Entry, Problem, Volume

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
}


@dataclass(frozen=True, slots=True)
class GuestVolume:
    """A volume: `path` to say, what it contains, size in bytes; `unreadable` says why no file can be read from it."""

    path: str
    content: str
    label: str
    size: int
    readable: bool
    unreadable: str
    note: str


@dataclass(frozen=True, slots=True)
class GuestFile:
    """A file, directory, link or device; size in bytes, `mode` in octal. `modified`: null if beyond the calendar."""

    path: str
    kind: str
    mode: str
    uid: int
    gid: int
    size: int
    modified: datetime | None
    target: str
    links: int


@dataclass(frozen=True, slots=True)
class Lack:
    """Something that could not be read or restored, and why."""

    path: str
    reason: str

    @property
    def sentence(self) -> str:
        """Both."""
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True, slots=True)
class FileList(Result):
    """Files, or the volumes they are on."""

    restore_point: Point
    volumes: tuple[GuestVolume, ...] = ()
    files: tuple[GuestFile, ...] = ()
    problems: tuple[Lack, ...] = ()

    def show(self, page: Page) -> None:
        """A table."""
        if self.volumes:
            rows = [(v.path, v.content, v.label, size(v.size), v.unreadable or v.note) for v in self.volumes]
            page.table(("volume", "content", "label", "size", ""), rows, right={"size"})
        for file in self.files:
            when = moment(file.modified) if file.modified else "?"
            arrow = f" -> {file.target}" if file.target else ""
            mode = stat.filemode(_type(file.kind) | int(file.mode, 8))
            page.line(f"{mode} {file.uid:>5} {file.gid:>5} {file.size:>12} {when} {file.path}{arrow}")
        _show_problems(page, self.problems)

    @property
    def exit_code(self) -> int:
        """3 if something could not be read."""
        return IncompleteError.exit_code if self.problems else 0


@dataclass(frozen=True, slots=True)
class Fetched(Deed):
    """What was brought back to `path`: how many files and directories, and the bytes of their content."""

    restore_point: Point
    path: str
    files: int
    size: int
    problems: tuple[Lack, ...] = ()

    def show(self, page: Page) -> None:
        """Where it is, and what is missing."""
        page.line(f"{self.path}: {count(self.files, 'file')}, {size(self.size)}")
        _show_problems(page, self.problems)

    @property
    def exit_code(self) -> int:
        """3 if something is missing."""
        return IncompleteError.exit_code if self.problems else 0


@dataclass(frozen=True, slots=True)
class Archived(Deed):
    """What was written to the archive at `path`: how many files and directories."""

    restore_point: Point
    path: str
    files: int
    problems: tuple[Lack, ...] = ()

    def show(self, page: Page) -> None:
        """Where it is, and what is missing."""
        page.line(f"{self.path}: {count(self.files, 'file')}")
        _show_problems(page, self.problems)

    @property
    def exit_code(self) -> int:
        """3 if something is missing."""
        return IncompleteError.exit_code if self.problems else 0


def describe_volume(volume: Volume) -> GuestVolume:
    """A volume as it is shown."""
    return GuestVolume(
        path=f"/{volume.name}",
        content=volume.content,
        label=volume.label,
        size=volume.size,
        readable=volume.readable,
        unreadable=volume.unreadable,
        note=volume.note,
    )


def describe_entry(volume: str, entry: Entry) -> GuestFile:
    """A file as it is shown."""
    return GuestFile(
        path="/".join(["", volume, *entry.path]),
        kind=_KINDS.get(stat.S_IFMT(entry.mode), "unknown"),
        mode=f"{stat.S_IMODE(entry.mode):04o}",
        uid=entry.uid,
        gid=entry.gid,
        size=entry.size,
        modified=_time(entry.mtime_ns),
        target=entry.target,
        links=entry.links,
    )


def describe_problem(problem: Problem) -> Lack:
    """A problem as it is shown."""
    return Lack("/".join(problem.path) or "/", problem.reason)


def _time(nanoseconds: int) -> datetime | None:
    try:
        return _EPOCH + timedelta(microseconds=nanoseconds // 1000)
    except OverflowError:
        return None


def _type(kind: str) -> int:
    return next((bits for bits, name in _KINDS.items() if name == kind), 0)


def _show_problems(page: Page, problems: tuple[Lack, ...]) -> None:
    for problem in problems:
        page.line(f"not read: {problem.sentence}")
