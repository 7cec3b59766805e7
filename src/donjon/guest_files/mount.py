# SPDX-License-Identifier: Apache-2.0
"""A guest's disks as raw files in a directory, by FUSE: read only, and only as far as they are looked at.

Source: fuse(4); fuse_set_signal_handlers(3): libfuse leaves when a signal comes whose handler is the default one.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import mfusepy

from donjon.errors import DonjonError, HostError, RefusedError
from donjon.guest_files.guest import Disk

_STOPPED = 8  # what fuse_main(3) returns when a signal has ended what was mounted
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Disks(mfusepy.Operations):  # type: ignore[misc]  # the library has no types
    """What FUSE asks."""

    use_ns = True

    def __init__(self, disks: Mapping[str, Disk], taken_at: float) -> None:
        self._disks = disks
        self._time = int(taken_at) * 10**9

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:  # noqa: ARG002 - FUSE's own names
        """What stat(2) tells."""
        common = {"st_uid": os.getuid(), "st_gid": os.getgid(), "st_mtime": self._time, "st_ctime": self._time}
        if path == "/":
            return {**common, "st_mode": stat.S_IFDIR | 0o500, "st_nlink": 2}
        return {**common, "st_mode": stat.S_IFREG | 0o400, "st_nlink": 1, "st_size": self._disk(path).size}

    def readdir(self, path: str, fh: int) -> list[str]:  # noqa: ARG002 - there is but one directory
        """All files."""
        return [".", "..", *self._disks]

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:  # noqa: ARG002 - by path is as good
        """Bytes of a disk; EIO if they are damaged."""
        try:
            return self._disk(path).read(offset, size)
        except DonjonError as error:
            raise mfusepy.FuseOSError(errno.EIO) from error

    def _disk(self, path: str) -> Disk:
        disk = self._disks.get(path.removeprefix("/"))
        if disk is None:
            raise mfusepy.FuseOSError(errno.ENOENT)
        return disk


def mount_disks(disks: Mapping[str, Disk], directory: Path, taken_at: float) -> None:
    """Show disks, by file name, in an empty directory until it is unmounted or a signal says stop.

    `taken_at` is the time of all files, in seconds since 1970.

    Raises:
        RefusedError: the directory is not empty.
        HostError: FUSE is not there, or refuses.
    """
    try:
        if any(directory.iterdir()):
            raise RefusedError(f"cannot mount on {directory}: it is not empty", hint="choose an empty directory")
    except OSError as error:
        raise HostError(f"cannot mount on {directory}: {error.strerror}") from error
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise HostError(f"cannot mount on {directory}: /dev/fuse cannot be opened")
    shown = Disks(disks, taken_at)
    options = {"foreground": True, "nothreads": True, "ro": True, "default_permissions": True}
    with _left_to_fuse():
        try:
            mfusepy.FUSE(shown, str(directory), fsname="donjon", **options)
        except RuntimeError as error:
            if error.args != (_STOPPED,):
                raise HostError(f"cannot mount on {directory}: FUSE refuses ({error})") from error


@contextmanager
def _left_to_fuse() -> Iterator[None]:
    """Signals that stop us are FUSE's business meanwhile."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in _STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
