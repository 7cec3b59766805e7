# SPDX-License-Identifier: Apache-2.0
"""Where a restored disk goes: a new image file, a block device, or standard output."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from donjon.errors import ConfigError, RefusedError
from donjon.images.new_file import Announce, new_file, silent
from donjon.images.qcow2_sink import open_qcow2
from donjon.images.raw_sink import DeviceSink, RawFileSink, StreamSink, opened, translated

Buffer = bytes | bytearray | memoryview


class BlockSink(Protocol):
    """A disk that is being written; each byte is written, or said to be zero, exactly once."""

    def write(self, offset: int, buffer: Buffer) -> None:
        """Write `buffer` at `offset`. Thread-safe, except for a stream, which must be written in order.

        Raises:
            HostError: it cannot be written.
        """
        ...

    def zero(self, offset: int, length: int) -> None:
        """Make a stretch read as zeros, without writing them where that can be. As `write`.

        Raises:
            HostError: it cannot be written.
        """
        ...


def open_sink(
    path: str | Path,
    image_format: str,
    size: int,
    options: Mapping[str, str] | None = None,
    *,
    exist_ok: bool = False,
    announce: Announce = silent,
) -> AbstractContextManager[BlockSink]:
    """Open a place to write a disk to. What was written is durable when the block is left without an error.

    A file appears under its name only then, whole; after an error nothing of it is left, and a file that was there
    before is untouched. A block device is written in place.

    Args:
        path: of the new file, or of a block device.
        image_format: raw or qcow2.
        size: of the disk, in bytes.
        options: of a qcow2 image, as in `ImageInfo.options`; others are passed over.
        exist_ok: an existing file may be replaced.
        announce: is told of the whole file before it gets its name; not of a device.

    Raises:
        RefusedError: the file exists, or the device is too small.
        ConfigError: the format can be read but not written, or a device cannot hold it.
        HostError: it cannot be opened, written or made durable.
        IntegrityError: the options are none.
    """
    target = Path(os.path.realpath(path))
    with translated(f"cannot write {target}"):
        is_device = target.exists() and stat.S_ISBLK(target.stat().st_mode)
    if image_format not in {"raw", "qcow2"}:
        raise ConfigError(f"cannot write {target}: donjon writes raw and qcow2 images, not {image_format}")
    if is_device and image_format != "raw":
        raise ConfigError(f"cannot write {target}: a block device is written raw, not as {image_format}")
    if is_device:
        return _open_device(target, size)
    if image_format == "raw":
        return _open_raw_file(new_file(target, exist_ok=exist_ok, announce=announce), target, size)
    return _open_qcow2_file(new_file(target, exist_ok=exist_ok, announce=announce), size, options or {})


@contextmanager
def open_stdout_sink(size: int) -> Iterator[BlockSink]:
    """Write a disk to standard output, from its first byte to its last.

    Raises:
        HostError: nobody reads it any more, or it cannot be written.
    """
    sys.stdout.flush()
    sink = StreamSink(sys.stdout.fileno(), size)
    yield sink
    sink.check_complete()


@contextmanager
def _open_device(path: Path, size: int) -> Iterator[BlockSink]:
    with opened(path, os.O_WRONLY | os.O_EXCL) as file:  # O_EXCL: not one that is mounted or otherwise taken.
        room = os.lseek(file, 0, os.SEEK_END)
        if room < size:
            raise RefusedError(f"cannot write {path}: the device has {room} bytes, the disk {size}")
        yield DeviceSink(file, path)
        with translated(f"cannot write {path}"):
            os.fsync(file)


@contextmanager
def _open_raw_file(made: AbstractContextManager[Path], path: Path, size: int) -> Iterator[BlockSink]:
    with made as unfinished, opened(unfinished, os.O_WRONLY) as file:
        with translated(f"cannot write {path}"):
            os.ftruncate(file, size)
        yield RawFileSink(file, path)


@contextmanager
def _open_qcow2_file(made: AbstractContextManager[Path], size: int, options: Mapping[str, str]) -> Iterator[BlockSink]:
    with made as unfinished, open_qcow2(unfinished, size, options) as sink:
        yield sink
