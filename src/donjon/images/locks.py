# SPDX-License-Identifier: Apache-2.0
"""Whether QEMU, or a program that follows its locking, has an image open for writing.

Source: QEMU's block/file-posix.c (RAW_LOCK_PERM_BASE, raw_check_lock_bytes) and block.h (BLK_PERM_WRITE); fcntl(2),
"Open file description locks". struct flock as on 64-bit Linux.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from donjon.errors import HostError

WRITE_PERMISSION_BYTE = 100 + 1
FLOCK = "hhqqi4x"


def in_use(path: str | Path) -> bool:
    """Whether somebody holds the permission to write to the image.

    Raises:
        HostError: the image cannot be opened, or its file system knows no such locks.
    """
    question = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, WRITE_PERMISSION_BYTE, 1, 0)
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            answer = fcntl.fcntl(file, fcntl.F_OFD_GETLK, question)
        finally:
            os.close(file)
    except OSError as error:
        raise HostError(f"cannot tell whether {path} is in use: {error.strerror}") from error
    return bool(struct.unpack(FLOCK, answer)[0] != fcntl.F_UNLCK)
