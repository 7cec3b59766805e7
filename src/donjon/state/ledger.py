# SPDX-License-Identifier: Apache-2.0
"""The ledger of debts: what is done to a host or guest is written down before it is done, and struck off once undone.

Source: sqlite.org/pragma.html#pragma_synchronous: with a rollback journal, only EXTRA brings a commit through a power
cut.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import RLock
from typing import NamedTuple, Self

from donjon.errors import DonjonError, HostError
from donjon.state.process import NOBODY, Process, this_process

Argument = str | int | bool | None
"""What an undoer can be told: it must come back from disk as it was."""

Undoer = Callable[..., None]
"""Takes back one kind of deed, given its arguments; succeeds if there is nothing to take back."""

_VERSION = 1
_BUSY_TIMEOUT_S = 60.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS debt (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    args TEXT NOT NULL,
    owner_pid INTEGER NOT NULL,
    owner_start INTEGER NOT NULL,
    boot_id TEXT NOT NULL,
    owed_at TEXT NOT NULL
)
"""


@dataclass(frozen=True, slots=True)
class Debt:
    """Something that must be undone. `owner_start` is in clock ticks since the boot `boot_id` names."""

    id: int
    kind: str
    args: dict[str, Argument]
    owner_pid: int
    owner_start: int
    boot_id: str
    owed_at: datetime
    _ledger: Ledger = field(repr=False, compare=False)

    @property
    def owner(self) -> Process:
        """The process that must undo it, as long as it lives."""
        return Process(self.owner_pid, self.owner_start, self.boot_id)

    def forgive(self) -> None:
        """Strike it off without undoing: what was done stays. Only after success.

        Raises:
            HostError: the ledger cannot be written; it is still owed.
        """
        self._ledger.forgive(self)

    def __str__(self) -> str:
        return f"{self.kind} ({', '.join(f'{name}={value}' for name, value in self.args.items())})"


_Row = tuple[int, str, str, int, int, str, str]


class _Outcome(NamedTuple):
    """Of one statement: its rows, how many it changed, and the id of the one it added."""

    rows: list[_Row]
    changed: int
    added: int


class Ledger:
    """Debts on disk, shared by all processes that open the same file. Thread-safe."""

    def __init__(self, path: Path | str, undoers: Mapping[str, Undoer]) -> None:
        """Open the ledger, or begin a new one; a directory made for it is for its owner only (0700).

        Args:
            path: of the file, or ":memory:" for a ledger that ends with the process.
            undoers: by kind of debt.

        Raises:
            HostError: it cannot be opened, was written by a newer donjon, or others could write to it.
        """
        self._path = str(path)
        self._undoers = dict(undoers)
        self._lock = RLock()
        self._forgiven: set[int] = set()
        self._tried: set[int] = set()
        if self._path != ":memory:":
            _make_private(Path(self._path))
        self._database = self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """What is owed stays owed."""
        with self._lock:
            self._database.close()

    @contextmanager
    def owing(self, kind: str, /, **args: Argument) -> Iterator[Debt]:
        """Owe an undo while the block runs; it is on disk before the block begins, and undone however it ends.

        Ctrl-C while it is undone does not leave it half done: it is undone once more, which does no harm, and only
        then goes on its way.

        Raises:
            HostError: it could not be written down (then the block does not run), or not be undone. If the block
                fails too, its error is kept and the failed undo added to it as a note.
        """
        debt = self._owe(kind, args)
        try:
            try:
                yield debt
            except BaseException as error:
                _note(error, self._pay(debt))
                raise
            if failure := self._pay(debt):
                raise failure
        except KeyboardInterrupt as stop:
            if debt.id not in self._tried:
                _note(stop, self._pay(debt))
            raise

    def debts(self) -> list[Debt]:
        """All that is owed, by any process, oldest first.

        Raises:
            HostError: the ledger cannot be read.
        """
        return [self._debt(row) for row in self._run("SELECT * FROM debt ORDER BY id").rows]

    def settle(self) -> list[Debt]:
        """Undo what dead processes left behind, newest first; debts of living ones are theirs.

        One process at a time does so, because the order matters; others wait, and find nothing left. Each debt is taken
        over before it is undone.

        Returns:
            What could not be undone, and so is still owed.

        Raises:
            HostError: the ledger cannot be read or written.
        """
        with self._alone():
            left = [debt for debt in reversed(self.debts()) if not debt.owner.is_alive()]
            return [debt for debt in left if (mine := self._hand_over(debt, this_process())) and self._pay(mine)]

    def forgive(self, debt: Debt) -> None:
        """Strike a debt off that will not be undone, see `Debt.forgive`."""
        self._strike(debt)
        self._forgiven.add(debt.id)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other process settles. Raises HostError."""
        if self._path == ":memory:":
            yield
            return
        try:
            # Not the file: closing it would take SQLite's own locks on it away.
            descriptor = os.open(Path(self._path).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise HostError(f"cannot use the ledger {self._path}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _owe(self, kind: str, args: dict[str, Argument]) -> Debt:
        if kind not in self._undoers:
            raise ValueError(f"nobody knows how to undo {kind!r}")
        owner, owed_at = this_process(), datetime.now(UTC)
        row = (kind, json.dumps(args), *owner, owed_at.isoformat())
        written = self._run(
            "INSERT INTO debt (kind, args, owner_pid, owner_start, boot_id, owed_at) VALUES (?, ?, ?, ?, ?, ?)", *row
        )
        return Debt(written.added, kind, args, *owner, owed_at, self)

    def _pay(self, debt: Debt) -> HostError | None:
        """Undo and strike off, unless forgiven; what cannot be undone belongs to nobody then, so anyone may settle it.

        The ledger is not asked before the undo: a guest is let go also where the ledger cannot be read any more.
        """
        if debt.id in self._forgiven:
            return None
        try:
            self._undo(debt)
            self._strike(debt)
        except (DonjonError, OSError, TypeError) as error:  # TypeError: another version's arguments
            failure = HostError(f"cannot undo {debt}: {error}", hint="when the cause is gone, run `donjon settle`")
            failure.__cause__ = error
        else:
            self._tried.add(debt.id)
            return None
        try:
            self._hand_over(debt, NOBODY)
        except HostError as error:
            failure.add_note(str(error))
        self._tried.add(debt.id)
        return failure

    def _strike(self, debt: Debt) -> None:
        self._run("DELETE FROM debt WHERE id = ?", debt.id)

    def _undo(self, debt: Debt) -> None:
        undo = self._undoers.get(debt.kind)
        if undo is None:
            raise HostError("this donjon does not know how", hint="use the version that wrote it down")
        undo(**debt.args)

    def _hand_over(self, debt: Debt, owner: Process) -> Debt | None:
        """Give a debt to another process; None if it is struck off, or has changed hands since it was read."""
        given = self._run(
            "UPDATE debt SET owner_pid = ?, owner_start = ?, boot_id = ?"
            " WHERE id = ? AND owner_pid = ? AND owner_start = ? AND boot_id = ?",
            *owner,
            debt.id,
            *debt.owner,
        )
        if not given.changed:
            return None
        return replace(debt, owner_pid=owner.pid, owner_start=owner.start, boot_id=owner.boot_id)

    def _debt(self, row: _Row) -> Debt:
        number, kind, args, pid, start, boot_id, owed_at = row
        return Debt(number, kind, json.loads(args), pid, start, boot_id, datetime.fromisoformat(owed_at), self)

    def _open(self) -> sqlite3.Connection:
        with self._translated("open"):
            database = sqlite3.connect(
                self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare(database)
            except BaseException:
                database.close()
                raise
        return database

    def _prepare(self, database: sqlite3.Connection) -> None:
        database.execute("PRAGMA synchronous = EXTRA")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise HostError(f"cannot open the ledger {self._path}: written by a newer donjon", hint="update donjon")
        if version < _VERSION:
            database.execute(_SCHEMA)
            database.execute(f"PRAGMA user_version = {_VERSION}")

    def _run(self, statement: str, *values: Argument) -> _Outcome:
        """Run one statement, a transaction of its own."""
        with self._lock, self._translated("use"), closing(self._database.cursor()) as cursor:
            rows = cursor.execute(statement, values).fetchall()
            return _Outcome(rows, cursor.rowcount, cursor.lastrowid or 0)

    @contextmanager
    def _translated(self, verb: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise HostError(f"cannot {verb} the ledger {self._path}: {error}") from error


def _note(error: BaseException, failure: HostError | None) -> None:
    """Say with an error what could not be undone after it."""
    if failure is not None:
        for line in (str(failure), *getattr(failure, "__notes__", ())):
            error.add_note(line)


def _make_private(path: Path) -> None:
    """Make the ledger's directory and empty file, and see that nobody else could slip us a debt."""
    try:
        if not path.parent.is_dir():
            path.parent.parent.mkdir(parents=True, exist_ok=True)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            _flush_directory(path.parent.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        directory = path.parent.stat()
    except OSError as error:
        raise HostError(
            f"cannot open the ledger {path}: {error.strerror}", hint="set DONJON_STATE_DIR to a directory of your own"
        ) from error
    if status.st_uid != os.geteuid() or (status.st_mode | directory.st_mode) & (stat.S_IWGRP | stat.S_IWOTH):
        raise HostError(
            f"cannot trust the ledger {path}: other users may write to it, or it belongs to one",
            hint=f"chown it to the user who runs donjon, and chmod go-w {path.parent}",
        )


def _flush_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
