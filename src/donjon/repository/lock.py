# SPDX-License-Identifier: Apache-2.0
"""Locks, as restic's: files in the repository that say who is at work and whether others may be.

A lock is taken by looking, writing, waiting and looking again; refreshed by a new file every five minutes; stale after
thirty. donjon's own host name in a lock is "HOST/donjon.TAG": the tag stands for this boot and process namespace, so
that nobody takes a process of another container for a dead one of this host, and a dead one's lock can be removed.

Source: restic internal/restic/lock.go; design.rst, "Locks".
"""

from __future__ import annotations

import getpass
import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from donjon import trace
from donjon.errors import FileMissingError, IntegrityError, RepositoryLockedError, StoreError
from donjon.repository.format import go_json
from donjon.repository.sealed_files import SealedFiles
from donjon.repository.store import FileName, FileType

STALE_AFTER = timedelta(minutes=30)


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a lock waits, in seconds; restic's times.

    `settle` for rivals to show up, `refresh` between one lock file and the next, `retry` after a refresh that failed,
    `lost` without a refresh before nobody may rely on the lock any more: well before others call it stale.
    """

    settle: float = 0.2
    refresh: float = 300.0
    retry: float = 60.0
    lost: float = 22.5 * 60


class LockFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who holds a lock, in restic's field order."""

    time: str
    exclusive: bool
    hostname: str
    username: str
    pid: int
    uid: int = 0
    gid: int = 0

    def stale(self, now: datetime) -> bool:
        """Whether its holder can no longer be at work."""
        if now - go_json.parse_time(self.time) > STALE_AFTER:
            return True
        return self.hostname == lock_hostname() and not _alive(self.pid)

    def describe(self) -> str:
        """Who and since when, for messages."""
        kind = "exclusively " if self.exclusive else ""
        return f"{kind}by {self.username}@{self.hostname} (pid {self.pid}) since {self.time}"


class Lock:
    """A lock that is held; `verify` before anything is written that others will rely on."""

    def __init__(self, files: SealedFiles, exclusive: bool, pace: Pace) -> None:
        self._files = files
        self._exclusive = exclusive
        self._pace = pace
        self._name = ""
        self._outdated: list[str] = []
        self._removed = False
        self._refreshed_s = _now_s()
        self._guard = threading.Lock()
        self._done = threading.Event()
        self._refresher = threading.Thread(target=self._keep_fresh, name="donjon-lock", daemon=True)

    def verify(self) -> None:
        """Make sure that the lock still protects us.

        Raises:
            RepositoryLockedError: somebody removed it, or it could not be refreshed for so long that others may think
                us dead.
            StoreError: that cannot be found out.
        """
        with self._guard:
            late = _now_s() - self._refreshed_s > self._pace.lost
            self._removed = self._removed or not (late or self._is_there())
        if late:
            raise RepositoryLockedError(
                "cannot go on writing: the lock on the repository could not be refreshed in time",
                hint="look at the storage that holds the repository, then run the command again",
            )
        if self._removed:
            raise RepositoryLockedError(
                "cannot go on writing: somebody removed our lock from the repository",
                hint="unlock only what nobody uses; run the command again, what is stored already is found",
            )

    def _is_there(self) -> bool:
        try:
            self._files.store.size(FileName(FileType.LOCK, self._name))
        except FileMissingError:
            return False
        return True

    def acquire(self) -> None:
        """Take it. Raises RepositoryLockedError if somebody else's stands in the way."""
        remove_dead_locks(self._files)
        self._refuse_if_held()
        self._write()
        try:
            trace.reached("lock.written")
            time.sleep(self._pace.settle)
            self._refuse_if_held()
        except BaseException:
            self.release()
            raise
        self._refresher.start()

    def release(self) -> None:
        """Give it back."""
        self._done.set()
        if self._refresher.is_alive():
            self._refresher.join()
        self._outdated.append(self._name)
        self._delete_outdated()

    def _refuse_if_held(self) -> None:
        for name, other in load_locks(self._files):
            if name != self._name and (other is None or other.exclusive or self._exclusive):
                raise _locked(name, other)

    def _write(self) -> None:
        lock = LockFile(
            time=go_json.format_time(datetime.now(UTC)),
            exclusive=self._exclusive,
            hostname=lock_hostname(),
            username=username(),
            pid=os.getpid(),
            uid=os.getuid(),
            gid=os.getgid(),
        )
        self._name = self._files.save(FileType.LOCK, go_json.encode(lock))
        self._refreshed_s = _now_s()

    def _keep_fresh(self) -> None:
        wait_s = self._pace.refresh
        while not self._done.wait(wait_s):
            try:
                self._refresh()
                wait_s = self._pace.refresh
            except StoreError:
                wait_s = self._pace.retry

    def _refresh(self) -> None:
        with self._guard:
            self._removed = self._removed or not self._is_there()  # a new file would not undo what happened since
            self._outdated.append(self._name)
            self._write()
            trace.reached("lock.refreshed")
            self._delete_outdated()

    def _delete_outdated(self) -> None:
        while self._outdated:
            self._files.store.delete(FileName(FileType.LOCK, self._outdated[-1]))
            self._outdated.pop()


def _locked(name: str, other: LockFile | None) -> RepositoryLockedError:
    if other is None:
        return RepositoryLockedError(
            f"cannot use the repository: it is locked by {FileName(FileType.LOCK, name)}, which cannot be read",
            hint="if nobody uses the repository, `donjon unlock --remove-all` removes it",
        )
    return RepositoryLockedError(
        f"cannot use the repository: it is locked {other.describe()}",
        hint="wait until that is done; if its holder is dead, `donjon unlock` removes the lock",
    )


@contextmanager
def held(files: SealedFiles, *, exclusive: bool = False, pace: Pace | None = None) -> Iterator[Lock]:
    """Hold a lock on the repository.

    Raises:
        RepositoryLockedError: somebody holds one that excludes ours.
        StoreError: the lock cannot be written.
    """
    lock = Lock(files, exclusive, pace or Pace())
    lock.acquire()
    try:
        yield lock
    finally:
        lock.release()


def load_locks(files: SealedFiles) -> Iterator[tuple[str, LockFile | None]]:
    """The names of all locks and what they say; None for one that cannot be read. Empty files are no locks."""
    for info in list(files.store.list(FileType.LOCK)):
        if info.size == 0:
            continue
        try:
            lock = go_json.decode(files.load(FileType.LOCK, info.name), LockFile, "a lock")
            go_json.parse_time(lock.time)
            yield info.name, lock
        except FileMissingError:
            continue
        except IntegrityError:
            yield info.name, None


def remove_dead_locks(files: SealedFiles) -> None:
    """Remove the locks that donjon processes left when they died. Other programs' are left to `unlock`."""
    now = datetime.now(UTC)
    for name, lock in load_locks(files):
        if lock and "/donjon." in lock.hostname and lock.stale(now):
            files.store.delete(FileName(FileType.LOCK, name))


def unlock(files: SealedFiles, *, remove_all: bool = False) -> int:
    """Remove stale locks, or all; returns how many. `remove_all` is for when nobody can be at work."""
    now = datetime.now(UTC)
    removed = 0
    for name, lock in load_locks(files):
        if remove_all or (lock is not None and lock.stale(now)):
            files.store.delete(FileName(FileType.LOCK, name))
            removed += 1
    return removed


def lock_hostname() -> str:
    """What donjon's locks name as their host."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    namespace = Path("/proc/self/ns/pid").readlink()
    tag = hashlib.sha256(f"{boot} {namespace}".encode()).hexdigest()[:8]
    return f"{socket.gethostname()}/donjon.{tag}"


def username() -> str:
    """Who we are; the number where the account has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _now_s() -> float:
    """Seconds of a clock that goes on while the machine sleeps, unlike time.monotonic."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
