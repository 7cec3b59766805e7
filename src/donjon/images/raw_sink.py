# SPDX-License-Identifier: Apache-2.0
"""Writing a disk raw: into an empty file, onto a block device, or into a stream.

Source: Linux's include/uapi/linux/fs.h and block/ioctl.c (BLKZEROOUT takes start and length in bytes, both multiples
of 512, and unmaps nothing that would not read as zeros).
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from donjon.errors import HostError

BLKZEROOUT = 0x127F
SECTOR = 512
ZEROS = bytes(1024 * 1024)


class RawFileSink:
    """An empty sparse file: zeros need not be written."""

    def __init__(self, file: int, path: Path) -> None:
        self._file = file
        self._path = path

    def write(self, offset: int, buffer: bytes | bytearray | memoryview) -> None:
        """Write `buffer` at `offset`. Thread-safe. Raises HostError."""
        _write_at(self._file, self._path, offset, buffer)

    def zero(self, offset: int, length: int) -> None:
        """A hole, which it is already."""


class DeviceSink:
    """A block device: what it held before is really overwritten."""

    def __init__(self, file: int, path: Path) -> None:
        self._file = file
        self._path = path

    def write(self, offset: int, buffer: bytes | bytearray | memoryview) -> None:
        """Write `buffer` at `offset`. Thread-safe. Raises HostError."""
        _write_at(self._file, self._path, offset, buffer)

    def zero(self, offset: int, length: int) -> None:
        """Let the device zero whole sectors, which may cost it nothing; write the rest. Raises HostError."""
        end = offset + length
        first, last = -(-offset // SECTOR) * SECTOR, end // SECTOR * SECTOR
        if first < last and self._zero_sectors(first, last - first):
            self._write_zeros(offset, first)
            self._write_zeros(last, end)
        else:
            self._write_zeros(offset, end)

    def _zero_sectors(self, offset: int, length: int) -> bool:
        try:
            fcntl.ioctl(self._file, BLKZEROOUT, struct.pack("QQ", offset, length))
        except OSError:
            return False  # Writing zeros is always possible, or says better what is wrong.
        return True

    def _write_zeros(self, offset: int, end: int) -> None:
        for at in range(offset, end, len(ZEROS)):
            _write_at(self._file, self._path, at, memoryview(ZEROS)[: end - at])


class StreamSink:
    """A stream: everything in order, zeros included. Not thread-safe."""

    def __init__(self, file: int, size: int) -> None:
        self._file = file
        self._size = size
        self._at = 0

    def write(self, offset: int, buffer: bytes | bytearray | memoryview) -> None:
        """Write `buffer`, which must follow what was written last.

        Raises:
            HostError: the stream cannot be written.
            ValueError: it does not follow.
        """
        if offset != self._at:
            raise ValueError(f"a stream is written in order: expected offset {self._at}, got {offset}")
        rest = memoryview(buffer)
        while rest:
            with translated(f"cannot write to standard output at offset {self._at}"):
                written = os.write(self._file, rest)
            rest = rest[written:]
            self._at += written

    def zero(self, offset: int, length: int) -> None:
        """Write zeros; as `write`."""
        for at in range(offset, offset + length, len(ZEROS)):
            self.write(at, memoryview(ZEROS)[: offset + length - at])

    def check_complete(self) -> None:
        """Do nothing if the whole disk was written.

        Raises:
            ValueError: it was not.
        """
        if self._at != self._size:
            raise ValueError(f"the stream ends at {self._at}, the disk at {self._size}")


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """Open a file, readable and writable for its owner only if it is made; its descriptor.

    Raises:
        HostError: it cannot be opened.
    """
    with translated(f"cannot open {path}"):
        file = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield file
    finally:
        os.close(file)


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """An OSError as HostError; `doing` is "cannot VERB WHAT"."""
    try:
        yield
    except OSError as error:
        raise HostError(f"{doing}: {error.strerror}") from error


def _write_at(file: int, path: Path, offset: int, buffer: bytes | bytearray | memoryview) -> None:
    rest = memoryview(buffer)
    while rest:
        with translated(f"cannot write {path} at offset {offset}"):
            written = os.pwrite(file, rest, offset)
        rest = rest[written:]
        offset += written
