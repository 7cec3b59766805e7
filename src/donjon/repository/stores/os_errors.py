# SPDX-License-Identifier: Apache-2.0
"""What the kernel's errors mean for a store, in the operator's words."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from donjon.errors import StoreError

_MOUNTED = "check that the disk is mounted and the path is right: {location}"
_OWNER = "use the user that owns {location}, or give this one the right to it"

_MEANINGS: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("the disk that holds the repository is full", "free some space there: {location}"),
    errno.EDQUOT: ("the disk quota is used up", "free some space or raise the quota: {location}"),
    errno.EROFS: ("the disk that holds the repository is read-only", "mount it for writing: {location}"),
    errno.EACCES: ("permission denied", _OWNER),
    errno.EPERM: ("the operation is not permitted", _OWNER),
    errno.EIO: (
        "the disk reports an input/output error",
        "look at the kernel's log (dmesg) for the disk of {location}",
    ),
    errno.ENOENT: ("there is no such file or directory", _MOUNTED),
    errno.ENOTDIR: ("a part of its path is not a directory", _MOUNTED),
    errno.ESTALE: ("the network file system has lost the file", _MOUNTED),
    errno.EMFILE: ("too many files are open", "raise the limit of open files (ulimit -n, LimitNOFILE=)"),
}


@contextmanager
def explained(action: str, location: str, *, missing: type[StoreError] = StoreError) -> Iterator[None]:
    """Turn an OSError of the block into a StoreError that says "cannot ACTION: REASON" and what to do.

    Raises:
        StoreError: an OSError came out of the block; of the class `missing` if it was ENOENT.
    """
    try:
        yield
    except OSError as error:
        reason, hint = _MEANINGS.get(error.errno or 0, (error.strerror or str(error), "look at {location}"))
        kind = missing if error.errno == errno.ENOENT else StoreError
        raise kind(f"cannot {action}: {reason}", hint=hint.format(location=location)) from error
