# SPDX-License-Identifier: Apache-2.0
"""What a restore makes, and what must go again unless all goes well; nothing that others made ever goes."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypedDict

from donjon.errors import HostError, RefusedError
from donjon.images.locks import in_use
from donjon.images.new_file import Announce, unfinished_files
from donjon.state.ledger import Debt, Ledger

FILE_DEBT = "restore.file"


class Identity(TypedDict):
    """By which a file or directory that nobody has written to since is known again; size in bytes, time since 1970."""

    inode: int
    size: int
    mtime_ns: int


class Made:
    """What was made, and goes again when the program leaves `held`, unless it is kept."""

    def __init__(self, ledger: Ledger, held: ExitStack) -> None:
        self._ledger = ledger
        self._held = held
        self._debts: list[Debt] = []

    def directory(self, path: Path) -> None:
        """Make a directory, and those above that are missing. Raises HostError."""
        missing = [part for part in (path, *path.parents) if not part.exists()]
        for part in reversed(missing):
            self._owe(path=str(part), only_if_empty=True)
            try:
                part.mkdir(exist_ok=True)
            except OSError as error:
                raise HostError(f"cannot make directory {part}: {error.strerror}") from error

    def making(self, path: Path) -> Announce:
        """`path` is about to come into being. What is returned must be told of it before it gets its name.

        Raises:
            RefusedError: it exists.
        """
        if path.exists() or path.is_symlink():
            raise RefusedError(
                f"cannot restore {path}: it exists", hint="choose another directory, or another name with --name"
            )
        return self.replacing(path)

    def replacing(self, path: Path) -> Announce:
        """The same, but if it exists it may be replaced, which is not undone."""
        self._owe(path=str(path))
        if path.exists():
            return lambda _: None
        return lambda unfinished: self._owe(path=str(path), **identity(unfinished))

    def keep(self) -> None:
        """All went well."""
        for debt in self._debts:
            debt.forgive()

    def remove(self) -> list[str]:
        """It did not, after all; returns what `remove_restored` says. Raises HostError."""
        said = [remove_restored(**debt.args) for debt in reversed(self._debts)]  # type: ignore[arg-type]
        return [sentence for sentence in said if sentence]

    def _owe(self, **args: str | bool | int) -> None:
        self._debts.append(self._held.enter_context(self._ledger.owing(FILE_DEBT, **args)))


@contextmanager
def made(ledger: Ledger) -> Iterator[Made]:
    """What is made in the block goes again if it fails."""
    with ExitStack() as held:
        new = Made(ledger, held)
        yield new
        new.keep()


def identity(path: Path) -> Identity:
    """Of what lies there now, whole. Not its device: those are numbered anew at every boot. Raises OSError."""
    status = path.lstat()
    return {"inode": status.st_ino, "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def is_untouched(path: Path, known: Identity) -> bool:
    """Whether it is still what had this identity, and nobody has it open for writing. Raises HostError, OSError."""
    try:
        if identity(path) != known:
            return False
    except FileNotFoundError:
        return False
    return not (stat.S_ISREG(path.lstat().st_mode) and in_use(path))


def remove_restored(
    path: str,
    only_if_empty: bool = False,
    inode: int | None = None,
    size: int | None = None,
    mtime_ns: int | None = None,
) -> str | None:
    """Undo the making of a file or directory; returns a sentence if something was left that is not ours to remove.

    Args:
        path: where it is, or was to be.
        only_if_empty: of a directory that was made to hold what is restored: other things may be in it by now.
        inode: with size and time, its identity when it was whole; without them it had not got its name, and only
            what was to become it is removed.
        size: in bytes.
        mtime_ns: since 1970.

    Raises:
        HostError: it cannot be told whether it is in use.
        OSError: it cannot be removed.
    """
    restored = Path(path)
    if only_if_empty:
        with suppress(OSError):
            restored.rmdir()
        return None
    for unfinished in unfinished_files(restored):
        _remove(unfinished)
    if inode is None or size is None or mtime_ns is None or not (restored.exists() or restored.is_symlink()):
        return None
    if not is_untouched(restored, {"inode": inode, "size": size, "mtime_ns": mtime_ns}):
        return f"left {restored} alone: it is in use, or not what a restore that failed has made there"
    _remove(restored)
    return None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
