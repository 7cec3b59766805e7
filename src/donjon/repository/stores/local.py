# SPDX-License-Identifier: Apache-2.0
"""A store in a directory of this host, laid out as restic's local backend does.

Source: restic design.rst, "Repository Layout".
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

from donjon import trace
from donjon.errors import FileExistsInStoreError, FileMissingError, StoreError
from donjon.repository.store import Buffer, FileInfo, FileName, FileType
from donjon.repository.stores.durable import DurableFiles
from donjon.repository.stores.names import check_name, is_id, is_temporary
from donjon.repository.stores.os_errors import explained
from donjon.repository.stores.system import System

_SHARDS = tuple(f"{number:02x}" for number in range(256))
_DAY_S = 86_400.0


class LocalStore:
    """Keeps files below `root`. If its group may read the config, then all else is written for it to read, too."""

    def __init__(self, root: Path, system: System = os) -> None:
        """Open the store; touches nothing. A test gives a `system` whose calls fail or forget."""
        self._root = root.absolute()
        self._system = system
        self._files = DurableFiles(system)
        self._settled = {self._root}  # directories whose own names are durable

    @property
    def location(self) -> str:
        """The directory."""
        return str(self._root)

    def create(self) -> None:
        """Make the directories that a repository has, and those above it; see Store."""
        with explained("create the repository's directories", self.location):
            self._make_root(self._root)
            for kind in FileType:
                self._make_directory(self._directory(kind))
            packs = self._directory(FileType.PACK)
            for shard in _SHARDS:
                self._make_directory(packs / shard)
            self._files.sync(packs)
            self._files.sync(self._root)

    def save(self, file: FileName, content: Iterable[Buffer]) -> None:
        """Keep a file; see Store."""
        path = self._path(file)
        with explained(f"save {file}", self.location):
            self._settle(path.parent)
            try:
                self._files.write(path, content, 0o440 if self._shared_with_group() else 0o400)
            except FileExistsError as error:
                raise FileExistsInStoreError(f"cannot save {file}: it exists already") from error
        trace.reached("store.saved")

    def load(self, file: FileName, offset: int = 0, length: int | None = None) -> bytes:
        """A range of the file; see Store."""
        path = self._path(file)
        with explained(f"read {file}", self.location, missing=FileMissingError):
            descriptor = self._system.open(path, os.O_RDONLY, 0)
            try:
                size = self._system.stat(descriptor).st_size
                end = max(offset, size) if length is None else offset + length
                data = self._read(descriptor, offset, end) if end <= size else None
            finally:
                self._system.close(descriptor)
        if data is None:
            raise StoreError(f"cannot read {file}: it ends at byte {size}, before {end}", hint="run `donjon check`")
        return data

    def size(self, file: FileName) -> int:
        """In bytes; see Store."""
        path = self._path(file)
        with explained(f"read {file}", self.location, missing=FileMissingError):
            return self._system.stat(path).st_size

    def list(self, type: FileType) -> Iterator[FileInfo]:
        """The files of a type; see Store. As in restic, a directory that is missing holds no files."""
        if type is FileType.CONFIG:
            return
        for directory in self._directories(type):
            prefix = directory.name if type is FileType.PACK else ""
            for name, status in self._scan(directory):
                if is_id(name) and name.startswith(prefix):
                    yield FileInfo(name, status.st_size)

    def delete(self, file: FileName) -> None:
        """Remove a file; see Store."""
        path = self._path(file)
        with explained(f"delete {file}", self.location), suppress(FileNotFoundError):
            with suppress(FileNotFoundError):
                self._system.unlink(path)
            trace.reached("store.unlinked")
            self._files.sync(path.parent)

    def sweep_temporary(self, older_than_s: float = _DAY_S) -> int:
        """Remove files that dead writers left half written; a day is longer than any file takes.

        Returns:
            How many were removed.

        Raises:
            StoreError: one could not be removed.
        """
        removed = 0
        for path in self._temporary(older_than_s):
            with explained(f"remove {path}", self.location):
                self._system.unlink(path)
            removed += 1
        return removed

    def leftovers(self, older_than_s: float = _DAY_S) -> Iterator[str]:
        """What `sweep_temporary` would remove: paths from the root."""
        return (str(path.relative_to(self._root)) for path in self._temporary(older_than_s))

    def set_aside(self, file: FileName) -> str:
        """Rename a damaged file, so that it is no longer one of the repository's; returns the new name.

        Raises:
            FileMissingError: there is no such file.
            StoreError: it cannot be renamed.
        """
        path = self._path(file)
        aside = path.with_name(f"{path.name}.damaged")
        with explained(f"rename {file}", self.location, missing=FileMissingError):
            self._system.rename(path, aside)
            self._files.sync(path.parent)
        return str(aside.relative_to(self._root))

    def _temporary(self, older_than_s: float) -> Iterator[Path]:
        before = time.time() - older_than_s
        for directory in chain.from_iterable(map(self._directories, FileType)):
            for name, status in self._scan(directory):
                if is_temporary(name) and status.st_mtime < before:
                    yield directory / name

    def _directory(self, type: FileType) -> Path:
        return self._root if type is FileType.CONFIG else self._root / type.value

    def _directories(self, type: FileType) -> Iterator[Path]:
        """The directories that files of a type are in."""
        directory = self._directory(type)
        if type is FileType.PACK:
            yield from (directory / shard for shard in _SHARDS)
        else:
            yield directory

    def _path(self, file: FileName) -> Path:
        check_name(file)
        directory = self._directory(file.type)
        if file.type is FileType.PACK:
            directory /= file.name[:2]
        return directory / (file.name or file.type.value)

    def _read(self, descriptor: int, offset: int, end: int) -> bytes | None:
        """The bytes up to `end`; None if the file has been cut meanwhile."""
        data = self._system.pread(descriptor, end - offset, offset)
        while len(data) < end - offset:  # one call moves at most 2 GiB
            more = self._system.pread(descriptor, end - offset - len(data), offset + len(data))
            if not more:
                return None
            data += more
        return data

    def _scan(self, directory: Path) -> Iterator[tuple[str, os.stat_result]]:
        """The regular files that are in a directory now; one that goes away meanwhile is left out."""
        found = []
        with explained(f"list {directory}", self.location), suppress(FileNotFoundError):
            for name in self._system.listdir(directory):
                with suppress(FileNotFoundError):
                    found.append((name, self._system.stat(directory / name)))
        return ((name, status) for name, status in found if stat.S_ISREG(status.st_mode))

    def _make_root(self, directory: Path) -> None:
        """Make a directory and those above it, durably."""
        if not self._files.exists(directory.parent):
            self._make_root(directory.parent)
        self._make_directory(directory)
        with suppress(PermissionError):  # one that we may pass but not read was there before us
            self._files.sync(directory.parent)

    def _make_directory(self, directory: Path) -> None:
        shared = self._shared_with_group()
        try:
            self._system.mkdir(directory, 0o750 if shared else 0o700)
        except FileExistsError:
            return
        if shared:
            mode = stat.S_IMODE(self._system.stat(directory).st_mode)
            self._system.chmod(directory, mode | 0o050)  # whatever the umask; set-group-ID stays

    def _settle(self, directory: Path) -> None:
        """Make a directory if it is missing, and its name durable: whoever made it may have died before that."""
        if directory not in self._settled:
            self._make_directory(directory)
            self._files.sync(directory.parent)
            self._settled.add(directory)

    def _shared_with_group(self) -> bool:
        """Whether the group may read the config, and so the repository."""
        try:
            return bool(self._system.stat(self._root / FileType.CONFIG.value).st_mode & stat.S_IRGRP)
        except FileNotFoundError:
            return False
