# SPDX-License-Identifier: Apache-2.0
"""Sparse files seen by what they hold; standard library only, so that the process that measures stays small."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

_STEP = 1 << 20


def data_extents(path: Path) -> Iterator[tuple[int, int]]:
    """Offset and length of every stretch the file system has allocated. Source: lseek(2), SEEK_DATA."""
    fd = os.open(path, os.O_RDONLY)
    try:
        end = 0
        while True:
            start = os.lseek(fd, end, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
            yield start, end - start
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
    finally:
        os.close(fd)


def read_all(path: Path) -> None:
    """Bring a file, or every file below a folder, into the page cache; holes are not read."""
    buffer = memoryview(bytearray(_STEP))
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if not file.is_file():
            continue
        with file.open("rb", buffering=0) as stream:
            for start, length in data_extents(file):
                stream.seek(start)
                for at in range(0, length, _STEP):
                    stream.readinto(buffer[: min(_STEP, length - at)])


def digest(path: Path) -> str:
    """SHA-256 of the whole file, in hexadecimal."""
    with path.open("rb", buffering=0) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def same_content(one: Path, other: Path) -> bool:
    """Whether two files read the same, looking only where either is allocated."""
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb", buffering=0) as first, other.open("rb", buffering=0) as second:
        for start, length in [*data_extents(one), *data_extents(other)]:
            for at in range(start, start + length, _STEP):
                part = min(_STEP, start + length - at)
                if os.pread(first.fileno(), part, at) != os.pread(second.fileno(), part, at):
                    return False
    return True


def size_on_disk(path: Path) -> int:
    """Apparent size of all files below a folder; of a single file, which may be sparse, what is allocated."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_blocks * 512


def make_durable(path: Path) -> None:
    """fsync a file, whoever wrote it."""
    fd = os.open(path, os.O_RDONLY)
    with contextlib.closing(os.fdopen(fd, "rb", buffering=0)):
        os.fsync(fd)
