# SPDX-License-Identifier: Apache-2.0
"""One disk of a restore point to a file, a block device or standard output."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from donjon import trace
from donjon.errors import ConfigError, HostError, RefusedError
from donjon.images.locks import in_use
from donjon.images.new_file import Announce, silent
from donjon.images.sink import open_sink, open_stdout_sink
from donjon.model.restore_point import DiskPoint, Manifest, RestorePoint
from donjon.repository.format.blob import Buffer
from donjon.repository.repository import Repository
from donjon.restore.image import restore_image
from donjon.restore_points import load_disk


def find_disk(manifest: Manifest, target: str) -> DiskPoint:
    """The disk an operator means. Raises ConfigError."""
    if disk := manifest.disk(target):
        return disk
    known = ", ".join(disk.target for disk in manifest.disks)
    raise ConfigError(f"cannot restore disk {target}: the restore point has none of that name", hint=f"it has: {known}")


def restore_disk(
    repository: Repository,
    point: RestorePoint,
    disk: DiskPoint,
    path: Path,
    *,
    image_format: str,
    exist_ok: bool = False,
    announce: Announce = silent,
    progress: Callable[[int], None],
) -> None:
    """Write a disk to a new image file, or over a block device.

    `announce` is told of the whole file before it gets its name.

    Raises:
        RefusedError: the file exists (without `exist_ok`), or the device is too small.
        IntegrityError: a block is damaged or missing; no file came into being.
        HostError: the target cannot be written.
    """
    with (
        load_disk(repository, point, disk) as block_map,
        open_sink(
            path, image_format, disk.size, options=disk.image_options, exist_ok=exist_ok, announce=announce
        ) as sink,
    ):
        trace.reached("restore.begun")
        restore_image(repository, block_map, sink, progress=progress)
        trace.reached("restore.written")


def restore_disk_to_stdout(
    repository: Repository, point: RestorePoint, disk: DiskPoint, *, progress: Callable[[int], None]
) -> None:
    """Write a disk to standard output, raw. Raises IntegrityError, HostError."""
    with load_disk(repository, point, disk) as block_map, open_stdout_sink(disk.size) as sink:
        restore_image(repository, block_map, sink, in_order=True, progress=progress)


def prove_disk(repository: Repository, point: RestorePoint, disk: DiskPoint) -> None:
    """Read a disk and write it nowhere: before it overwrites something. Raises IntegrityError, StoreError."""
    with load_disk(repository, point, disk) as block_map:
        restore_image(repository, block_map, _Nowhere())


def refuse_device(path: Path, disk: DiskPoint) -> None:
    """Do nothing if a disk may be written over a block device.

    Raises:
        RefusedError: another process writes to the device, or it is too small.
        HostError: it cannot be opened.
    """
    if in_use(path):
        raise RefusedError(f"cannot restore to {path}: another process has it open for writing")
    try:
        with path.open("rb") as device:
            room = device.seek(0, os.SEEK_END)
    except OSError as error:
        raise HostError(f"cannot open {path}: {error.strerror}") from error
    if room < disk.size:
        raise RefusedError(f"cannot restore to {path}: the device has {room} bytes, the disk {disk.size}")


class _Nowhere:
    def write(self, offset: int, buffer: Buffer) -> None:
        """Nothing."""

    def zero(self, offset: int, length: int) -> None:
        """Nothing."""
