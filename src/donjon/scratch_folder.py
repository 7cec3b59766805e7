# SPDX-License-Identifier: Apache-2.0
"""Private temporary folders that are gone in the end, also those of processes that were killed.

A folder in use is locked by its user, and the kernel drops the lock when that process ends: what can be locked by
somebody else is left over.

Source: flock(2).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from donjon import trace
from donjon.errors import HostError

_PREFIX = "donjon-"
_SUFFIX = ".scratch"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for its owner only (0700), where TMPDIR says, for as long as the block lasts.

    Raises:
        HostError: it cannot be made.
    """
    with ExitStack() as held:
        while (folder := _make_folder(held)) is None:
            pass  # somebody took it for one that is left over, before it was locked
        yield folder


def _make_folder(held: ExitStack) -> Path | None:
    """A new folder, locked; None if it was swept away in between."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, suffix=_SUFFIX))
    except OSError as error:
        raise HostError(f"cannot make a temporary folder in {tempfile.gettempdir()}: {error.strerror}") from error
    held.callback(shutil.rmtree, folder, ignore_errors=True)
    trace.reached("scratch.made")
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostError(f"cannot use the temporary folder {folder}: {error.strerror}") from error
    held.callback(os.close, lock)
    trace.reached("scratch.opened")
    fcntl.flock(lock, fcntl.LOCK_EX)
    with suppress(FileNotFoundError):
        if os.path.samestat(os.lstat(folder), os.fstat(lock)):
            return folder
    return None


def sweep_scratch_folders() -> int:
    """Remove our folders that nobody uses any more; returns how many there were."""
    swept = 0
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*{_SUFFIX}"):
        with suppress(OSError):  # somebody else's, or gone meanwhile
            if folder.is_symlink() or folder.lstat().st_uid != os.geteuid():
                continue
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
                swept += 1
            finally:
                os.close(lock)
    return swept
