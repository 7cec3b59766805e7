# SPDX-License-Identifier: Apache-2.0
"""The file tree of a guest as the guest sees it: its root, and what its fstab mounts; read through the sandbox.

What cannot be seen (a damaged directory, a volume that is locked, the far side of a link that leads to another volume)
raises Unseen and is never taken for a file that is not there. Nothing the guest does can make us read without end.

Source: fstab(5); dm's naming of logical volumes (dm_build_dm_name: "-" within a name is doubled).
"""

from __future__ import annotations

import re
import stat
import time
from collections.abc import Callable, Iterator
from posixpath import dirname
from typing import TypeVar

from donjon.audit.fact import Absent, Fact, Known, Unknown, Unseen
from donjon.errors import DonjonError, HostError, IntegrityError
from donjon.guest_files.content import CutShortError, Found, files_of, whole
from donjon.guest_files.guest import Disk, GuestFiles
from donjon.guest_files.messages import Entry, Problem, Volume

T = TypeVar("T")

MOST_ENTRIES = 100_000
MOST_TEXT = 1 << 20
_VIRTUAL = frozenset({"tmpfs", "proc", "sysfs", "devpts", "swap", "none", "devtmpfs", "overlay", "iso9660"})
_MARKS = {"/var": {"lib", "log"}, "/usr": {"bin", "share"}, "/boot/efi": {"EFI"}, "/boot": {"grub"}}


class LimitedDisk:
    """A disk of which only so many bytes are read, and only until a moment of the monotonic clock."""

    def __init__(self, disk: Disk, most: int, until: float) -> None:
        self.size = disk.size
        self.got = 0
        self._disk = disk
        self._most = most
        self._until = until

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from `offset` on. Raises IntegrityError: damaged, or enough was read."""
        if self.got + length > self._most or time.monotonic() > self._until:
            raise IntegrityError("cannot read on: the guest has too much to look at")
        self.got += length
        return self._disk.read(offset, length)


class GuestTree:
    """Directories and files of a guest by path. Links are followed within a volume."""

    def __init__(self, files: GuestFiles) -> None:
        self._files = files
        self._lost = ""
        self._left = MOST_ENTRIES
        self._listings: dict[str, dict[str, Entry] | str] = {}
        self._volumes = {volume.name: volume for volume in files.volumes if volume.readable}
        self._mounts: dict[str, str | None] = {"/": self._root()}
        self._mounts |= self._mounted()

    @property
    def root(self) -> str | None:
        """The volume that holds the guest's root, None if there is none."""
        return self._mounts["/"]

    def look(self, source: str, see: Callable[[], T]) -> Fact[T]:
        """What `see` finds: Absent if it raises FileNotFoundError, Unknown if it cannot see or understand."""
        try:
            return Known(see(), source)
        except FileNotFoundError:
            return Absent(source)
        except Unseen as unseen:
            return Unknown(str(unseen))
        except (ValueError, LookupError) as error:
            return Unknown(f"{source} cannot be understood: {error}")

    def listing(self, path: str) -> dict[str, Entry]:
        """What is in a directory, by name. Raises FileNotFoundError, Unseen."""
        if path not in self._listings:
            self._listings[path] = self._list(path)
        known = self._listings[path]
        if isinstance(known, str):
            raise Unseen(known)
        return known

    def entry(self, path: str) -> Entry:
        """A file, directory or link. Raises FileNotFoundError, Unseen."""
        entries = self.listing(dirname(path))
        name = path.rpartition("/")[2]
        if name not in entries:
            raise FileNotFoundError(path)
        return entries[name]

    def read(self, path: str, most: int = MOST_TEXT) -> bytes:
        """The content of a file, at most so many bytes. Raises FileNotFoundError, Unseen."""
        entry = self.entry(path)
        if stat.S_ISLNK(entry.mode):
            entry = self._target(path)
        if not stat.S_ISREG(entry.mode):
            raise FileNotFoundError(path)
        if entry.size > most:
            raise Unseen(f"{path} is too long")
        volume, parts = self._place(path)
        content = [self._content(path, found, most) for found in files_of(self._walk(volume, parts, 0, full=True))]
        return content[0] if content else b""

    def text(self, path: str) -> str:
        """The same as text; what is no UTF-8 is replaced. Raises FileNotFoundError, Unseen."""
        return self.read(path).decode("utf-8", "replace")

    def below(self, path: str, depth: int) -> Iterator[tuple[str, Entry]]:
        """All that is below a directory, so many levels down, links not followed; nothing if it is not there."""
        try:
            entries = self.listing(path)
        except FileNotFoundError:
            return
        for name, entry in entries.items():
            inner = f"{path.rstrip('/')}/{name}"
            yield inner, entry
            if stat.S_ISDIR(entry.mode) and depth > 1:
                yield from self.below(inner, depth - 1)

    def files(self, path: str, depth: int = 1) -> Iterator[tuple[str, Entry]]:
        """The regular files of `below`. Raises Unseen."""
        return ((inner, entry) for inner, entry in self.below(path, depth) if stat.S_ISREG(entry.mode))

    def _content(self, path: str, found: tuple[Entry, Iterator[bytes]] | Problem, most: int) -> bytes:
        if isinstance(found, Problem):
            raise Unseen(f"{path}: {found.reason}")
        entry, content = found
        if entry.unreadable or entry.size > most:
            raise Unseen(f"{path}: {entry.unreadable or 'it is too long'}")
        try:
            return b"".join(whole(entry, content))
        except CutShortError as error:
            raise Unseen(str(error)) from error

    def _target(self, path: str) -> Entry:
        volume, parts = self._place(path)
        try:
            found = [one for one in self._walk(volume, parts, 0) if isinstance(one, Entry)]
        except FileNotFoundError:
            raise Unseen(f"{path} leads to nothing, or to another volume") from None
        if not found:
            raise Unseen(f"{path} cannot be followed")
        return found[0]

    def _list(self, path: str) -> dict[str, Entry] | str:
        if path != "/":
            entry = self.entry(path)
            if not stat.S_ISDIR(entry.mode) and not stat.S_ISLNK(entry.mode):
                raise FileNotFoundError(path)
        volume, parts = self._place(path)
        try:
            return self._inside(volume, parts)
        except FileNotFoundError:
            return f"{path} leads to nothing, or to another volume"
        except Unseen as unseen:
            return str(unseen)

    def _inside(self, volume: str, parts: list[str]) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        problem = ""
        own = True
        for one in self._walk(volume, parts, 1):
            if isinstance(one, Problem):
                problem = problem or f"/{'/'.join(one.path)}: {one.reason}"
            elif isinstance(one, Entry) and not own:
                found[one.path[-1]] = one
            own = False
        if problem:
            raise Unseen(problem)
        return found

    def _walk(self, volume: str, parts: list[str], depth: int, *, full: bool = False) -> Iterator[Found]:
        """As GuestFiles.walk. Raises FileNotFoundError; Unseen once the reader is lost, or has told too much."""
        if self._lost:
            raise Unseen(self._lost)
        try:
            for found in self._files.walk(volume, parts, depth=depth, full=full):
                self._left -= 1
                if self._left < 0:
                    raise HostError("cannot read on: the guest has too many files to look at")
                yield found
        except DonjonError as error:
            self._lost = str(error)
            raise Unseen(self._lost) from error

    def _place(self, path: str) -> tuple[str, list[str]]:
        mount = max((one for one in self._mounts if _within(path, one)), key=len)
        volume = self._mounts[mount]
        if volume is None:
            raise Unseen(f"the volume of {mount} was not found" if mount != "/" else "no volume holds a Linux system")
        return volume, [*(part for part in path[len(mount) :].split("/") if part), "."]

    def _root(self) -> str | None:
        return next((name for name in self._volumes if self._holds_a_system(name)), None)

    def _holds_a_system(self, volume: str) -> bool:
        try:
            etc = self._inside(volume, ["etc", "."])
        except (FileNotFoundError, Unseen):
            return False
        return "passwd" in etc or "os-release" in etc

    def _mounted(self) -> dict[str, str | None]:
        """Mount point -> volume, None if it cannot be told which."""
        if self.root is None:
            return {}
        try:
            wanted = dict(mount_points(self.text("/etc/fstab")))
        except (FileNotFoundError, Unseen):
            return {}
        found = {point: self._by_name(device) or self._by_mark(point) for point, device in wanted.items()}
        self._listings.clear()
        return found

    def _by_name(self, device: str) -> str | None:
        kind, _, value = device.partition("=")
        if kind == "LABEL":
            named = [name for name, volume in self._volumes.items() if volume.label == value]
            return named[0] if len(named) == 1 else None
        name = volume_name(device)
        return name if name in self._volumes else None

    def _by_mark(self, point: str) -> str | None:
        """The only other volume that looks as what belongs there."""
        others = [name for name in self._volumes if name != self.root and self._looks_like(name, point)]
        return others[0] if len(others) == 1 else None

    def _looks_like(self, volume: str, point: str) -> bool:
        marks = _MARKS.get(point)
        try:
            return bool(marks) and marks is not None and marks <= self._inside(volume, []).keys()
        except (FileNotFoundError, Unseen):
            return False


def _within(path: str, mount: str) -> bool:
    return path == mount or path.startswith(mount.rstrip("/") + "/")


def mount_points(fstab: str) -> Iterator[tuple[str, str]]:
    """Mount point and device of what is mounted from a disk."""
    for line in fstab.splitlines():
        words = line.split()
        if len(words) < 3 or words[0].startswith("#") or words[2] in _VIRTUAL or words[0].startswith("//"):
            continue
        if words[1].startswith("/") and words[1] != "/" and ":" not in words[0]:
            yield words[1].rstrip("/"), words[0].replace('"', "")


def volume_name(device: str) -> str:
    """Of "/dev/mapper/vg--0-root" and "/dev/vg-0/root": "vg-0/root"; of "/dev/vda1": "vda1"."""
    if device.startswith("/dev/mapper/"):
        group, _, volume = re.sub("(?<!-)-(?!-)", "\0", device.removeprefix("/dev/mapper/")).partition("\0")
        return f"{group}/{volume}".replace("--", "-")
    return device.removeprefix("/dev/")


def describe(volumes: tuple[Volume, ...]) -> str:
    """The volumes of a guest in a line, for messages."""
    return ", ".join(f"{one.name} ({one.unreadable or one.content})" for one in volumes) or "none"
