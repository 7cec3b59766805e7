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
from contextlib import contextmanager, suppress
from pathlib import Path

from donjon.errors import HostError

_PREFIX = "donjon-"
_SUFFIX = ".scratch"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for its owner only (0700), where TMPDIR says, for as long as the block lasts.

    Raises:
        HostError: it cannot be made.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, suffix=_SUFFIX))
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"cannot make a temporary folder in {tempfile.gettempdir()}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


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
