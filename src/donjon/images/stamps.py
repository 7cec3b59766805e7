# SPDX-License-Identifier: Apache-2.0
"""Knowing an image again, unchanged, by the file system's record of its last change.

A file whose last change is younger than 2 s could change once more without a trace (file systems keep times by the
tick, the coarsest by 2 s): its stamp is not settled. A change may reach the disk, and its time not, before a power cut:
stamps of another boot of the host prove nothing. Writes through a memory map show only after they were written
back: a file is synced before it is stamped.

Source: git's Documentation/technical/racy-git.txt; stat(2), "Timestamp fields"; mmap(2) on st_mtime.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

from donjon.errors import HostError
from donjon.images.image_info import ImageInfo
from donjon.model.restore_point import ImageStamp

SETTLED_AFTER_NS = 2_000_000_000


def stamp_chain(info: ImageInfo) -> tuple[ImageStamp, ...]:
    """Stamps of all files of an image, in the order of the chain.

    Raises:
        HostError: one cannot be opened or synced.
    """
    return stamp_files(file for layer in info.chain for file in layer.files)


def stamp_files(paths: Iterable[str]) -> tuple[ImageStamp, ...]:
    """Stamps of files, in their order; of what is no regular file (devices, network), one that is never settled.

    Raises:
        HostError: one cannot be opened or synced.
    """
    return tuple(_stamp(path) for path in paths)


def same_stamps(now: tuple[ImageStamp, ...], then: tuple[ImageStamp, ...]) -> bool:
    """Whether nothing has changed since `then`: every stamp settled, equal, of this boot, and at least one."""
    return bool(then) and now == then and all(stamp.settled for stamp in then)


def changed_files(now: tuple[ImageStamp, ...], then: tuple[ImageStamp, ...]) -> list[str]:
    """Paths whose stamps differ; whether they are settled, and of which boot, is left aside."""
    before = {stamp.path: _bare(stamp) for stamp in then}
    return [stamp.path for stamp in now if before.get(stamp.path) != _bare(stamp)]


def rebooted(now: tuple[ImageStamp, ...], then: tuple[ImageStamp, ...]) -> bool:
    """Whether the stamps are of different boots of the host, or of different hosts."""
    return {stamp.boot_id for stamp in now} != {stamp.boot_id for stamp in then}


def _bare(stamp: ImageStamp) -> ImageStamp:
    return replace(stamp, settled=True, boot_id="")


@cache
def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _stamp(path: str) -> ImageStamp:
    unknown = ImageStamp(path, inode=0, size=0, mtime_ns=0, ctime_ns=0, settled=False)
    if not path.startswith("/"):
        return unknown
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            return unknown
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(file)
            status = os.fstat(file)
        finally:
            os.close(file)
    except OSError as error:
        raise HostError(f"cannot read image {path}: {error.strerror}") from error
    age_ns = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns)
    return ImageStamp(
        path,
        inode=status.st_ino,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
        settled=age_ns >= SETTLED_AFTER_NS,
        boot_id=_boot_id(),
    )
