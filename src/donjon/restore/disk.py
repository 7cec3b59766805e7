# SPDX-License-Identifier: Apache-2.0
"""One disk of a restore point to a file, a block device or standard output."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from donjon import trace
from donjon.errors import ConfigError
from donjon.images.new_file import unfinished_files
from donjon.images.sink import open_sink, open_stdout_sink
from donjon.model.restore_point import DiskPoint, Manifest, RestorePoint
from donjon.repository.format.blob import Buffer
from donjon.repository.repository import Repository
from donjon.restore.image import restore_image
from donjon.restore_points import load_disk

FILE_DEBT = "restore.file"


def find_disk(manifest: Manifest, target: str) -> DiskPoint:
    """The disk an operator means. Raises ConfigError."""
    if disk := manifest.disk(target):
        return disk
    known = ", ".join(disk.target for disk in manifest.disks)
    raise ConfigError(f"cannot restore disk {target}: the restore point has none of that name", hint=f"it has: {known}")


def remove_restored(path: str, only_if_empty: bool = False) -> None:
    """Undo the restore of a file or directory that was not there before: remove it, and what an unfinished one left.

    `only_if_empty` is for a directory that was made to hold what is restored: other things may be in it by now.
    """
    restored = Path(path)
    if only_if_empty:
        with suppress(OSError):
            restored.rmdir()
    elif restored.is_dir() and not restored.is_symlink():
        shutil.rmtree(restored)
    else:
        restored.unlink(missing_ok=True)
        for unfinished in unfinished_files(restored):
            unfinished.unlink(missing_ok=True)


def restore_disk(
    repository: Repository,
    point: RestorePoint,
    disk: DiskPoint,
    path: Path,
    *,
    image_format: str,
    exist_ok: bool = False,
    progress: Callable[[int], None],
) -> None:
    """Write a disk to a new image file, or over a block device.

    Raises:
        RefusedError: the file exists (without `exist_ok`), or the device is too small.
        IntegrityError: a block is damaged or missing; no file came into being.
        HostError: the target cannot be written.
    """
    with (
        load_disk(repository, point, disk) as block_map,
        open_sink(path, image_format, disk.size, options=disk.image_options, exist_ok=exist_ok) as sink,
    ):
        trace.reached("restore.begun")
        restore_image(repository, block_map, sink, progress=progress)
        trace.reached("restore.written")


def restore_disk_to_stdout(
    repository: Repository, point: RestorePoint, disk: DiskPoint, *, progress: Callable[[int], None]
) -> None:
    """Write a disk to standard output, raw. Raises IntegrityError, HostError."""
    with load_disk(repository, point, disk) as block_map, open_stdout_sink(disk.size) as sink:
        restore_image(repository, block_map, sink, progress=progress)


def prove_disk(repository: Repository, point: RestorePoint, disk: DiskPoint) -> None:
    """Read a disk and write it nowhere: before it overwrites something. Raises IntegrityError, StoreError."""
    with load_disk(repository, point, disk) as block_map:
        restore_image(repository, block_map, _Nowhere())


class _Nowhere:
    def write(self, offset: int, buffer: Buffer) -> None:
        """Nothing."""

    def zero(self, offset: int, length: int) -> None:
        """Nothing."""
