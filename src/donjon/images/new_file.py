# SPDX-License-Identifier: Apache-2.0
"""A file that appears under its name only when it is whole and durable.

Source: link(2), which never replaces a file; open(2), fsync(2) on directories.
"""

from __future__ import annotations

import errno
import glob
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from donjon import trace
from donjon.errors import HostError, RefusedError
from donjon.images.raw_sink import opened, translated

NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


Announce = Callable[[Path], None]
"""Is told of what is about to get its name, whole and durable, by the path it has until then."""


def silent(_: Path) -> None:
    """Nobody wants to know."""


@contextmanager
def new_file(path: Path, *, exist_ok: bool, announce: Announce = silent) -> Iterator[Path]:
    """Make an empty file beside `path`; when the block is left without an error it gets that name, else it is removed.

    Only the owner may read and write it; one that replaces another takes over its owner and mode.

    Raises:
        RefusedError: `path` exists, without `exist_ok`, at the beginning or at the end.
        HostError: it cannot be made, or not be made durable.
    """
    _check_free(path, exist_ok=exist_ok)
    unfinished = path.with_name(_unfinished_name(path))
    with opened(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL):
        pass
    try:
        yield unfinished
        with translated(f"cannot write {path}"):
            _take_over(unfinished, path)
            _sync(unfinished, os.O_WRONLY)
            announce(unfinished)
            trace.reached("new-file.whole")
            _publish(unfinished, path, exist_ok=exist_ok)
            _sync(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            trace.reached("new-file.named")
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def new_directory(path: Path, *, announce: Announce = silent) -> Iterator[Path]:
    """Make an empty directory beside `path`, which gets that name as in `new_file`.

    Raises:
        RefusedError: `path` exists.
        HostError: it cannot be made.
    """
    unfinished = path.with_name(_unfinished_name(path))
    with translated(f"cannot make directory {path}"):
        unfinished.mkdir(mode=0o700)
    try:
        yield unfinished
        with translated(f"cannot make directory {path}"):
            _sync(unfinished, os.O_RDONLY | os.O_DIRECTORY)
            announce(unfinished)
            trace.reached("new-directory.whole")
            if path.exists() or path.is_symlink():
                raise RefusedError(f"cannot make directory {path}: it exists by now")
            unfinished.rename(path)
            _sync(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _unfinished_name(path: Path) -> str:
    return f".{_shortened(path.name)}.{secrets.token_hex(4)}.unfinished"


def _shortened(name: str) -> str:
    """As much of a name as leaves room for what is put around it: a file's name may have 255 bytes."""
    return os.fsencode(name)[:200].decode("utf-8", "ignore")


def _check_free(path: Path, *, exist_ok: bool) -> None:
    if not path.parent.is_dir():
        raise HostError(f"cannot write {path}: there is no directory {path.parent}")
    if path.is_dir():
        raise RefusedError(f"cannot write {path}: it is a directory")
    if path.exists() and not (exist_ok and path.is_file()):
        raise RefusedError(f"cannot write {path}: it exists", hint="choose another name, or say that it be replaced")


def _take_over(unfinished: Path, path: Path) -> None:
    if path.exists():
        old = path.stat()
        os.chown(unfinished, old.st_uid, old.st_gid)
        unfinished.chmod(old.st_mode)


def _publish(unfinished: Path, path: Path, *, exist_ok: bool) -> None:
    if exist_ok:
        unfinished.replace(path)
        return
    try:
        path.hardlink_to(unfinished)
    except FileExistsError as error:
        raise RefusedError(f"cannot write {path}: it exists by now") from error
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        _check_free(path, exist_ok=False)
        unfinished.rename(path)


def _sync(path: Path, flags: int) -> None:
    with opened(path, flags) as file:
        os.fsync(file)


def unfinished_files(path: Path) -> list[Path]:
    """What writers of `path` that were killed have left beside it."""
    length = len(_unfinished_name(path))
    pattern = f".{glob.escape(_shortened(path.name))}.*.unfinished"
    return [found for found in path.parent.glob(pattern) if len(found.name) == length]
