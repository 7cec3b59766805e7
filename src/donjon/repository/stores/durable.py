# SPDX-License-Identifier: Apache-2.0
"""Files that are there whole and durable, or not at all: written aside, synced, and named last.

Source: fsync(2): a file's bytes and its name in a directory are made durable apart; link(2): unlike rename(2), it
never replaces.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from threading import Lock

from donjon import trace
from donjon.repository.store import Buffer
from donjon.repository.stores.names import temporary_name
from donjon.repository.stores.system import System

_BUFFERS_PER_WRITE = 16  # each may be a mebibyte, and is only made when it is asked for
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_NO_DIRECTORY_SYNC = frozenset({errno.EINVAL, errno.EOPNOTSUPP})  # some FUSE file systems, SMB: the server's affair


class DurableFiles:
    """Makes and names files by the calls of a system. Thread-safe. Every error is an OSError."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._renaming = Lock()

    def write(self, path: Path, content: Iterable[Buffer], mode: int) -> None:
        """Keep a new file at `path`, with exactly these permissions.

        Raises:
            FileExistsError: there is one; it is durable, and was not changed.
            OSError: it could not be kept; it is not there, nor, if the system lets us, anything else of it.
        """
        temporary = path.with_name(temporary_name(path.name))
        try:
            self._write_temporary(temporary, content, mode)
            trace.reached("store.temp-written")
            self._publish(temporary, path)
        except FileExistsError:
            self.sync(path.parent)
            raise
        finally:
            self._discard(temporary)
        trace.reached("store.published")
        try:
            self.sync(path.parent)
        except OSError:
            self._discard(path)
            raise

    def sync(self, directory: Path) -> None:
        """Make the names in a directory durable."""
        descriptor = self._system.open(directory, os.O_RDONLY | os.O_DIRECTORY, 0)
        try:
            self._system.fsync(descriptor)
        except OSError as error:
            if error.errno not in _NO_DIRECTORY_SYNC:
                raise
        finally:
            self._system.close(descriptor)

    def exists(self, path: Path) -> bool:
        """Whether something is at `path`; when in doubt, an error."""
        try:
            self._system.stat(path)
        except FileNotFoundError:
            return False
        return True

    def _write_temporary(self, path: Path, content: Iterable[Buffer], mode: int) -> None:
        descriptor = self._system.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            if mode & stat.S_IRWXG:
                self._system.chmod(descriptor, mode)  # whatever the umask
            self._write_all(descriptor, content)
            self._system.fsync(descriptor)
        finally:
            self._system.close(descriptor)

    def _write_all(self, descriptor: int, content: Iterable[Buffer]) -> None:
        views = (memoryview(buffer).cast("B") for buffer in content if len(buffer))
        while batch := list(islice(views, _BUFFERS_PER_WRITE)):
            while batch:
                batch = _behind(batch, self._system.writev(descriptor, batch))

    def _publish(self, temporary: Path, path: Path) -> None:
        """Give the file its name. Raises FileExistsError if that is taken, and replaces nothing."""
        try:
            self._system.link(temporary, path)
        except OSError as error:
            if self._same_file(temporary, path):  # done, but the answer was lost: NFS
                return
            if error.errno not in _NO_HARD_LINKS:
                raise
            self._publish_by_rename(temporary, path)

    def _publish_by_rename(self, temporary: Path, path: Path) -> None:
        """For FAT and the like. Another process may get in between, but with the same bytes: names are hashes."""
        with self._renaming:
            if self.exists(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            try:
                self._system.rename(temporary, path)
            except OSError:
                if self.exists(temporary):  # else done, but the answer was lost
                    raise

    def _same_file(self, one: Path, other: Path) -> bool:
        try:
            return os.path.samestat(self._system.stat(one), self._system.stat(other))
        except OSError:
            return False

    def _discard(self, path: Path) -> None:
        with suppress(OSError):
            self._system.unlink(path)


def _behind(buffers: list[memoryview], written: int) -> list[memoryview]:
    """What is left of the buffers after the first `written` bytes."""
    for index, buffer in enumerate(buffers):
        if written < len(buffer):
            return [buffer[written:], *buffers[index + 1 :]]
        written -= len(buffer)
    return []
