# SPDX-License-Identifier: Apache-2.0
"""A raw disk image, file or block device, read directly; holes in a file are known without reading them.

A file of any size is read to its exact last byte (QEMU would round its size up to whole sectors of 512 bytes).

Source: lseek(2), SEEK_DATA and SEEK_HOLE; posix_fadvise(2).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from donjon.errors import HostError
from donjon.model.extent import Extent, Kind


class RawImage:
    """A BlockSource; made by `open_raw`."""

    def __init__(self, file: int, path: str, size: int) -> None:
        self._file = file
        self._path = path
        self._size = size

    @property
    def size(self) -> int:
        """Of the disk, in bytes."""
        return self._size

    def extents(self) -> Iterator[Extent]:
        """DATA and, where the file has holes, ZERO; a device, or a file system that cannot tell, is all DATA.

        Raises:
            HostError: the file cannot be examined.
        """
        at = 0
        while at < self._size:
            start = min(self._seek(at, os.SEEK_DATA, otherwise=self._size), self._size)
            if start > at:
                yield Extent(at, start - at, Kind.ZERO)
            if start < self._size:
                end = min(self._seek(start, os.SEEK_HOLE, otherwise=self._size), self._size)
                yield Extent(start, end - start, Kind.DATA)
                start = end
            at = start

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the image's bytes from `offset` on.

        Raises:
            HostError: it cannot be read there, or ends before the buffer does.
        """
        while buffer:
            try:
                got = os.preadv(self._file, [buffer], offset)
            except OSError as error:
                raise HostError(f"cannot read {self._path} at offset {offset}: {error.strerror}") from error
            if not got:
                raise HostError(f"cannot read {self._path} at offset {offset}: it has become shorter")
            buffer = buffer[got:]
            offset += got

    def _seek(self, at: int, whence: int, *, otherwise: int) -> int:
        """Where the next data, or the next hole, begins; `otherwise` if there are none."""
        try:
            return os.lseek(self._file, at, whence)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return otherwise
            if error.errno == errno.EINVAL:
                return at if whence == os.SEEK_DATA else otherwise
            raise HostError(f"cannot examine {self._path} at offset {at}: {error.strerror}") from error


@contextmanager
def open_raw(path: str, size: int) -> Iterator[RawImage]:
    """Open a raw image of that size for reading.

    Raises:
        HostError: it cannot be opened, or has another size.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"cannot read image {path}: {error.strerror}") from error
    try:
        size_now = os.lseek(file, 0, os.SEEK_END)
        if size_now != size:
            raise HostError(f"cannot read image {path}: its size has changed from {size} to {size_now} bytes")
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        yield RawImage(file, path, size)
    finally:
        os.close(file)
