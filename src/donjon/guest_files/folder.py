# SPDX-License-Identifier: Apache-2.0
"""A guest's files into a directory of the host, from which nothing in them leads out.

Every step goes from an open directory to a name in it and follows no link, for the names, links and contents are the
guest's.

Source: openat(2), link(2), xattr(7), capabilities(7) (chown drops file capabilities: attributes are set after it).
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from donjon.errors import HostError, RefusedError
from donjon.guest_files.content import CutShortError, cut
from donjon.guest_files.messages import Entry, Problem
from donjon.images.new_file import NO_HARD_LINKS

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ANYTHING = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PRIVILEGED = ("security.", "trusted.")
_NTFS_ACL = "system.ntfs_acl"
_NOT_THERE = (OSError, OverflowError, ValueError)


@dataclass(slots=True)
class Written:
    """What was restored: how many files and the like, how many bytes of content, and what not; `notes` for people."""

    files: int = 0
    size: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Level:
    """A directory being filled."""

    path: list[str]
    descriptor: int
    entry: Entry


class Folder:
    """A directory that files are restored into, the topmost under `name`. Use it in a `with` block.

    `force`: what exists is replaced, directories are filled; `devices`: device nodes are made (root may). `link`: as
    os.link, which some file systems refuse.

    Raises:
        HostError: there can be no such directory.
        RefusedError: the name is none.
    """

    def __init__(
        self,
        target: Path,
        name: str,
        *,
        force: bool = False,
        devices: bool = False,
        link: Callable[..., None] = os.link,
    ) -> None:
        if name in {"", ".", ".."} or "/" in name:
            raise RefusedError(f"cannot restore into {target}: {name!r} is no name for what is put there")
        self._name = name
        self._link = link
        self._force = force
        self._devices = devices
        self._root = os.geteuid() == 0
        self._levels: list[_Level] = []
        self._first: dict[int, list[str]] = {}
        self.written = Written()
        try:
            target.mkdir(parents=True, exist_ok=True)
            self._target = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise HostError(f"cannot restore into {target}: {error.strerror}") from error

    def write(self, files: Iterable[tuple[Entry, Iterator[bytes]] | Problem]) -> Written:
        """Restore what `files_of` gives, parents first.

        Raises:
            RefusedError: something exists, without `force`.
            HostError: the directory cannot be written to any more.
        """
        top: int | None = None
        try:
            for found in files:
                if isinstance(found, Problem):
                    self.written.problems.append(found)
                    continue
                entry, content = found
                top = len(entry.path) if top is None else top
                self._write(entry, [self._name, *entry.path[top:]], content)
        finally:
            while self._levels:
                self._leave()
            os.close(self._target)
        return self.written

    def _write(self, entry: Entry, path: list[str], content: Iterator[bytes]) -> None:
        self.written.problems += [Problem(entry.path, lack) for lack in entry.lacks]
        while self._levels and path[:-1][: len(self._levels[-1].path)] != self._levels[-1].path:
            self._leave()
        if len(self._levels) != len(path) - 1:
            self._tell(entry, "its directory could not be made")
            return
        parent = self._levels[-1].descriptor if self._levels else self._target
        try:
            if stat.S_ISDIR(entry.mode):
                self._enter(entry, path, parent)
            else:
                self._make_whole(entry, path, parent, content)
            self.written.files += 1
        except RefusedError:
            raise
        except CutShortError as error:
            self._tell(entry, str(error))
        except _NOT_THERE as error:
            if isinstance(error, OSError) and error.errno in {28, 122, 30, 5}:  # no space, quota, read-only, I/O error
                raise HostError(f"cannot restore {'/'.join(path)}: {error.strerror}") from error
            self._tell(entry, str(error))

    def _enter(self, entry: Entry, path: list[str], parent: int) -> None:
        try:
            os.mkdir(path[-1], 0o700, dir_fd=parent)
        except FileExistsError:
            kind = os.stat(path[-1], dir_fd=parent, follow_symlinks=False).st_mode
            if not self._force or not stat.S_ISDIR(kind):
                raise _exists(path) from None
        self._levels.append(_Level(path, os.open(path[-1], _DIRECTORY, dir_fd=parent), entry))

    def _leave(self) -> None:
        """A directory gets its owner, mode and times when nothing more is put into it."""
        level = self._levels.pop()
        try:
            self._dress(level.entry, level.descriptor)
        except _NOT_THERE as error:
            self._tell(level.entry, str(error))
        finally:
            os.close(level.descriptor)

    def _make_whole(self, entry: Entry, path: list[str], parent: int, content: Iterator[bytes]) -> None:
        """Make it under another name, then give it its own."""
        unfinished = f".donjon-{secrets.token_hex(8)}"
        with ExitStack() as made:
            made.callback(_remove, unfinished, parent)
            if not self._linked(entry, unfinished, parent):
                descriptor = self._make(entry, unfinished, parent, content, made)
                if descriptor is None:
                    return
                self._dress(entry, descriptor)
            self._publish(unfinished, path, parent)
        if entry.links > 1:
            self._first.setdefault(entry.inode, path)

    def _make(self, entry: Entry, name: str, parent: int, content: Iterator[bytes], held: ExitStack) -> int | None:
        """Make it; returns it open until `held` is left, None if it is not made."""
        kind = stat.S_IFMT(entry.mode)
        if kind == stat.S_IFREG and not entry.unreadable:
            descriptor = _opened(name, _NEW_FILE, parent, held)
            self.written.size += _fill(entry, descriptor, content)
            return descriptor
        if kind == stat.S_IFLNK:
            os.symlink(entry.target, name, dir_fd=parent)
        elif kind == stat.S_IFIFO:
            os.mkfifo(name, 0o600, dir_fd=parent)
        elif kind in {stat.S_IFCHR, stat.S_IFBLK} and self._devices and entry.device:
            os.mknod(name, kind | 0o600, os.makedev(*entry.device), dir_fd=parent)
        else:
            devices = "device nodes are made with --devices only"
            self._tell(entry, entry.unreadable or (devices if entry.device else "it is a socket or the like"))
            return None
        return _opened(name, _ANYTHING, parent, held)

    def _linked(self, entry: Entry, name: str, parent: int) -> bool:
        """Whether it is a further name of a file that was restored already."""
        first = self._first.get(entry.inode) if entry.links > 1 else None
        if first is None:
            return False
        with ExitStack() as opened:
            at = self._target
            for part in first[:-1]:
                at = os.open(part, _DIRECTORY, dir_fd=at)
                opened.callback(os.close, at)
            return self._can_link(first[-1], at, name, parent)

    def _can_link(self, old: str, old_parent: int, new: str, parent: int) -> bool:
        """Give a file a further name, where there are such."""
        try:
            self._link(old, new, src_dir_fd=old_parent, dst_dir_fd=parent, follow_symlinks=False)
        except OSError as error:
            if error.errno in NO_HARD_LINKS:
                return False
            raise
        return True

    def _publish(self, unfinished: str, path: list[str], parent: int) -> None:
        if self._force:
            os.replace(unfinished, path[-1], src_dir_fd=parent, dst_dir_fd=parent)
            return
        try:
            if self._can_link(unfinished, parent, path[-1], parent):
                return
        except FileExistsError:
            raise _exists(path) from None
        with suppress(FileNotFoundError):
            os.stat(path[-1], dir_fd=parent, follow_symlinks=False)
            raise _exists(path)
        os.rename(unfinished, path[-1], src_dir_fd=parent, dst_dir_fd=parent)

    def _dress(self, entry: Entry, descriptor: int) -> None:
        """Owner, attributes, mode and times, in the order in which the one does not undo the other.

        They go to what is open: another may have taken its name by now.
        """
        opened = f"/proc/self/fd/{descriptor}"
        if self._root:
            os.chown(opened, entry.uid, entry.gid)
        for key, value in entry.xattrs.items():
            if not self._root and key.startswith(_PRIVILEGED):
                continue
            try:
                os.setxattr(opened, key, value)
            except OSError as error:
                self._lack(entry, key, error)
        if not stat.S_ISLNK(entry.mode):
            mode = stat.S_IMODE(entry.mode) & (0o7777 if self._root else 0o1777)
            Path(opened).chmod(mode)
        os.utime(opened, ns=(entry.mtime_ns, entry.mtime_ns))

    def _lack(self, entry: Entry, key: str, error: OSError) -> None:
        if key == _NTFS_ACL and error.errno == errno.EOPNOTSUPP:
            if not self.written.notes:
                self.written.notes.append(
                    "the security descriptors of NTFS are not kept here; `donjon files tar` keeps them"
                )
        else:
            self._tell(entry, f"extended attribute {key}: {error.strerror}")

    def _tell(self, entry: Entry, reason: str) -> None:
        self.written.problems.append(Problem(entry.path, reason))


def _opened(name: str, flags: int, parent: int, held: ExitStack) -> int:
    descriptor = os.open(name, flags, 0o600, dir_fd=parent)
    held.callback(os.close, descriptor)
    return descriptor


def _fill(entry: Entry, descriptor: int, content: Iterator[bytes]) -> int:
    with os.fdopen(descriptor, "wb", 1 << 20, closefd=False) as file:
        file.truncate(entry.size)
        pieces = cut(content, [size for _, size in entry.ranges or ()])
        for (offset, _), parts in zip(entry.ranges or (), pieces, strict=True):
            file.seek(offset)
            file.writelines(parts)
    return sum(size for _, size in entry.ranges or ())


def _remove(name: str, parent: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=parent)


def _exists(path: list[str]) -> RefusedError:
    return RefusedError(
        f"cannot restore {'/'.join(path)}: it exists", hint="choose another directory, or say --force to replace it"
    )
