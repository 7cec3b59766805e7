# SPDX-License-Identifier: Apache-2.0
"""Locks keep the wrong ones out, let the right ones in, and are gone when their holder is."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event

import pytest

from donjon import trace
from donjon.errors import RepositoryLockedError, StoreError
from donjon.repository import lock
from donjon.repository.format import go_json
from donjon.repository.format.blob import BlobType
from donjon.repository.format.snapshot import Snapshot
from donjon.repository.lock import LockFile, Pace
from donjon.repository.repository import Repository
from donjon.repository.sealed_files import SealedFiles
from donjon.repository.store import FileName, FileType
from donjon.repository.stores.local import LocalStore
from donjon.repository.stores.memory import MemoryStore
from donjon.repository.writer import WriteOptions, Writer
from donjon.testing.faults import Faults
from tests.unit.repository.disks import PASSWORD, new_repository

AT_ONCE = Pace(settle=0)
RESTLESS = Pace(settle=0, refresh=0.01, retry=0.01)
HOLD = """
import sys, pathlib
from donjon.repository import lock
from donjon.repository.repository import Repository
from donjon.repository.stores.local import LocalStore
with lock.held(Repository.open(LocalStore(pathlib.Path(sys.argv[1])), "pw").files):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def files(store: MemoryStore) -> SealedFiles:
    return new_repository(store).files


def leave_lock(
    files: SealedFiles,
    *,
    minutes_ago: float = 0,
    hostname: str = "elsewhere",
    pid: int = 1,
    exclusive: bool = False,
) -> str:
    """A lock as another process wrote it."""
    time = go_json.format_time(datetime.now(UTC) - timedelta(minutes=minutes_ago))
    content = LockFile(time=time, exclusive=exclusive, hostname=hostname, username="ann", pid=pid)
    return files.save(FileType.LOCK, go_json.encode(content))


def lock_names(files: SealedFiles) -> set[str]:
    return {info.name for info in files.store.list(FileType.LOCK)}


def dead_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


@contextmanager
def refreshes(times: int) -> Iterator[Event]:
    """Set when a lock has been refreshed so many times."""
    done = Event()
    seen = []

    def count(point: str) -> None:
        if point == "lock.refreshed":
            seen.append(point)
            if len(seen) == times:
                done.set()

    with trace.listening(count):
        yield done


@pytest.mark.parametrize(
    ("first", "second", "compatible"),
    [(False, False, True), (False, True, False), (True, False, False), (True, True, False)],
)
def test_only_shared_locks_go_together(files: SealedFiles, first: bool, second: bool, compatible: bool) -> None:
    with lock.held(files, exclusive=first, pace=AT_ONCE):
        if compatible:
            with lock.held(files, exclusive=second, pace=AT_ONCE):
                assert len(lock_names(files)) == 2
        else:
            with pytest.raises(RepositoryLockedError), lock.held(files, exclusive=second, pace=AT_ONCE):
                pass
            assert len(lock_names(files)) == 1
    assert lock_names(files) == set()


@pytest.mark.parametrize("error", [KeyboardInterrupt, StoreError])
def test_a_lock_is_given_back_whatever_happens(files: SealedFiles, error: type[BaseException]) -> None:
    with pytest.raises(error), lock.held(files, pace=AT_ONCE):
        raise error("")
    assert lock_names(files) == set()


def test_who_is_interrupted_while_taking_a_lock_leaves_none(files: SealedFiles) -> None:
    def interrupt(point: str) -> None:
        if point == "lock.written":
            raise KeyboardInterrupt

    with trace.listening(interrupt), pytest.raises(KeyboardInterrupt), lock.held(files, pace=AT_ONCE):
        pass
    assert lock_names(files) == set()


def test_of_two_who_lock_at_once_the_one_who_sees_the_other_gives_way(files: SealedFiles) -> None:
    rivals: list[str] = []

    def rival(point: str) -> None:
        if point == "lock.written":
            rivals.append(leave_lock(files, exclusive=True))

    with trace.listening(rival), pytest.raises(RepositoryLockedError), lock.held(files, pace=AT_ONCE):
        pass
    assert lock_names(files) == set(rivals)


def test_the_holder_is_named(files: SealedFiles) -> None:
    leave_lock(files, exclusive=True, pid=4711)
    with pytest.raises(RepositoryLockedError, match=r"exclusively by ann@elsewhere \(pid 4711\) since 2"):
        lock.Lock(files, False, AT_ONCE).acquire()


def test_a_refresh_writes_the_new_lock_before_it_removes_the_old(files: SealedFiles) -> None:
    seen: list[set[str]] = []
    with (
        refreshes(3) as done,
        trace.listening(lambda _: seen.append(lock_names(files))),
        lock.held(files, pace=RESTLESS) as held,
    ):
        first = lock_names(files)
        assert done.wait(20)
        held.verify()
    assert first <= seen[1]
    assert all(len(names) == 2 for names in seen[1:])
    assert lock_names(files) == set()


@pytest.mark.parametrize("fail_at", [2, 3], ids=["to save the new", "to delete the old"])
def test_a_refresh_that_fails_is_tried_again(store: MemoryStore, fail_at: int) -> None:
    repository = new_repository(store)
    faulty = Faults(store, fail_at, StoreError("cannot"), only={"save", "delete"})
    with refreshes(3) as done, lock.held(SealedFiles(faulty, repository.key), pace=RESTLESS) as held:
        assert done.wait(20)
        held.verify()
        assert faulty.calls > fail_at
    assert lock_names(repository.files) == set()


def test_an_old_lock_that_could_not_be_removed_is_removed_in_the_end(store: MemoryStore) -> None:
    repository = new_repository(store)
    faulty = Faults(store, 3, StoreError("cannot"), only={"save", "delete"})
    patient = Pace(settle=0, refresh=0.01, retry=300)
    with refreshes(1) as done, lock.held(SealedFiles(faulty, repository.key), pace=patient):
        assert done.wait(20)
        while faulty.calls < 3:
            pass
        assert len(lock_names(repository.files)) == 2
    assert lock_names(repository.files) == set()


def test_a_lock_not_refreshed_in_time_is_lost(files: SealedFiles) -> None:
    with (
        lock.held(files, pace=Pace(settle=0, lost=-1)) as held,
        pytest.raises(RepositoryLockedError, match="not be refreshed"),
    ):
        held.verify()


def test_a_lock_that_somebody_removed_is_lost_for_good(files: SealedFiles) -> None:
    with lock.held(files, pace=AT_ONCE) as held:
        held.verify()
        assert lock.unlock(files, remove_all=True) == 1
        with pytest.raises(RepositoryLockedError, match="removed our lock"):
            held.verify()


def test_a_refresh_does_not_make_good_that_the_lock_was_removed(files: SealedFiles) -> None:
    removals: list[int] = []

    def remove(point: str) -> None:
        if point == "lock.refreshed" and not removals:
            removals.append(lock.unlock(files, remove_all=True))

    with refreshes(3) as done, trace.listening(remove), lock.held(files, pace=RESTLESS) as held:
        assert done.wait(20)
        assert lock_names(files)
        with pytest.raises(RepositoryLockedError, match="removed our lock"):
            held.verify()


@pytest.mark.parametrize("pace", [Pace(settle=0, lost=-1), AT_ONCE], ids=["too old", "removed"])
def test_who_has_lost_the_lock_commits_nothing(pace: Pace) -> None:
    repository = new_repository()
    with (
        lock.held(repository.files, pace=pace) as held,
        pytest.raises(RepositoryLockedError),
        Writer(repository, held, WriteOptions()) as writer,
    ):
        tree = writer.save_blob(BlobType.TREE, b'{"nodes":[]}\n')
        lock.unlock(repository.files, remove_all=True)
        writer.save_snapshot(Snapshot(time="2024-01-01T00:00:00Z", tree=tree.hex(), paths=["/vm"]))
    assert list(repository.snapshots()) == []
    assert list(repository.store.list(FileType.INDEX)) == []


@pytest.mark.parametrize(
    ("minutes_ago", "hostname", "dead", "removed"),
    [
        (31, "elsewhere/donjon.01234567", False, True),
        (29, "elsewhere/donjon.01234567", True, False),
        (0, lock.lock_hostname(), True, True),
        (0, lock.lock_hostname(), False, False),
        (31, "elsewhere", False, False),
        (0, socket.gethostname(), True, False),
    ],
    ids=["old", "of another host", "of a dead process", "of a live process", "old, of restic", "dead, of restic"],
)
def test_only_dead_locks_of_donjon_are_removed_unasked(
    files: SealedFiles, minutes_ago: float, hostname: str, dead: bool, removed: bool
) -> None:
    left = leave_lock(files, minutes_ago=minutes_ago, hostname=hostname, pid=dead_pid() if dead else os.getpid())
    with lock.held(files, pace=AT_ONCE):
        assert (left not in lock_names(files)) == removed


def test_a_stale_lock_of_restic_stands_in_the_way_until_unlocked(files: SealedFiles) -> None:
    leave_lock(files, minutes_ago=31)
    with pytest.raises(RepositoryLockedError), lock.held(files, exclusive=True, pace=AT_ONCE):
        pass
    assert lock.unlock(files) == 1
    with lock.held(files, exclusive=True, pace=AT_ONCE):
        pass


def test_unlock_leaves_what_may_be_in_use(files: SealedFiles) -> None:
    left = {leave_lock(files, minutes_ago=29), leave_lock(files, hostname=lock.lock_hostname(), pid=os.getpid())}
    assert lock.unlock(files) == 0
    assert lock_names(files) == left
    assert lock.unlock(files, remove_all=True) == 2


@pytest.mark.parametrize("content", [b"x" * 100, b"x"], ids=["long", "short"])
def test_a_lock_that_cannot_be_read_stands_in_the_way(files: SealedFiles, store: MemoryStore, content: bytes) -> None:
    store.files[FileName(FileType.LOCK, "a" * 64)] = content
    with pytest.raises(RepositoryLockedError, match="locks/aaaa"), lock.held(files, pace=AT_ONCE):
        pass
    assert lock.unlock(files) == 0
    assert lock.unlock(files, remove_all=True) == 1


def test_a_lock_that_gives_no_time_stands_in_the_way(files: SealedFiles) -> None:
    nonsense = LockFile(time="yesterday", exclusive=False, hostname="elsewhere", username="ann", pid=1)
    files.save(FileType.LOCK, go_json.encode(nonsense))
    with pytest.raises(RepositoryLockedError, match="cannot be read"), lock.held(files, pace=AT_ONCE):
        pass


def test_an_empty_file_is_no_lock(files: SealedFiles, store: MemoryStore) -> None:
    store.files[FileName(FileType.LOCK, "a" * 64)] = b""
    with lock.held(files, exclusive=True, pace=AT_ONCE):
        pass


def test_the_lock_of_a_killed_process_is_removed_by_the_next(tmp_path: Path) -> None:
    repository = new_repository(LocalStore(tmp_path))
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RepositoryLockedError), lock.held(repository.files, exclusive=True, pace=AT_ONCE):
            pass
        holder.send_signal(signal.SIGKILL)
    assert len(lock_names(repository.files)) == 1
    with lock.held(repository.files, exclusive=True, pace=AT_ONCE):
        assert len(lock_names(repository.files)) == 1
    assert lock_names(repository.files) == set()


@contextmanager
def restic_backing_up(folder: Path) -> Iterator[None]:
    """A `restic backup` that waits for its input, and so holds a shared lock."""
    command = ["restic", "--no-cache", "-r", str(folder), "backup", "--stdin"]
    environment = os.environ | {"RESTIC_PASSWORD": PASSWORD}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as run:
        while not any((folder / "locks").glob("*[0-9a-f]")) and run.poll() is None:
            pass
        yield
        run.terminate()


@pytest.mark.interop
def test_a_backup_by_restic_keeps_out_who_wants_to_be_alone(tmp_path: Path) -> None:
    repository = new_repository(LocalStore(tmp_path))
    with restic_backing_up(tmp_path):
        with lock.held(repository.files):
            pass
        with pytest.raises(RepositoryLockedError, match="it is locked by"):
            lock.Lock(repository.files, True, AT_ONCE).acquire()


@pytest.mark.interop
@pytest.mark.parametrize(
    ("exclusive", "command", "admitted"),
    [(False, "snapshots", True), (False, "prune", False), (True, "snapshots", False)],
)
def test_restic_minds_our_locks(tmp_path: Path, exclusive: bool, command: str, admitted: bool) -> None:
    repository = Repository.open(new_repository(LocalStore(tmp_path)).store, PASSWORD)
    with lock.held(repository.files, exclusive=exclusive, pace=AT_ONCE):
        run = subprocess.run(
            ["restic", "--no-cache", "-r", str(tmp_path), command],
            env=os.environ | {"RESTIC_PASSWORD": PASSWORD},
            capture_output=True,
            text=True,
            check=False,
        )
    assert (run.returncode == 0) == admitted
    assert admitted or "already locked" in run.stderr
