# SPDX-License-Identifier: Apache-2.0
"""A VM at one moment, whole, as kept in a repository."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from typing import NamedTuple


class Consistency(IntEnum):
    """How orderly the guest was at the moment of the restore point; higher is better."""

    CRASH = 1
    FILESYSTEM = 2
    APPLICATION = 3
    OFFLINE = 4


@dataclass(frozen=True, slots=True)
class ImageStamp:
    """By which an image file is known again, unchanged: the file system's own record of its last change.

    Times in nanoseconds since 1970. `settled` is False where the last change was too close to the moment the stamp
    was taken for a later one to show (file systems keep times by the tick). `boot_id` is the kernel's name for the
    boot of the host: a power cut may keep a change and lose its time.
    """

    path: str
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    settled: bool
    boot_id: str = ""


_LATEST_S = 1 << 37
"""Some time in the year 6325, which a datetime can still hold."""


class Comparison(NamedTuple):
    """A stretch of a disk, in blocks, and when the bytes of each were last read and found to be those of the map.

    `at` in seconds since 1970; 0: never, or nobody knows when.
    """

    start: int
    blocks: int
    at: int

    @property
    def when(self) -> datetime | None:
        """The same time, None if it is not known."""
        return datetime.fromtimestamp(self.at, UTC) if 0 < self.at < _LATEST_S else None


@dataclass(frozen=True, slots=True)
class DiskPoint:
    """One disk within a restore point.

    Sizes in bytes. `path` is where the disk lies in the snapshot's tree ("/web01/vda/vda.raw"). `checkpoint` is the
    name of the change-tracking bitmap that began at this moment; `stamps` are those of the image and of every image
    behind it. `had_internal_snapshots` makes the bitmap useless as a base: a revert would not show in it.

    `comparisons` tile the disk. `mismatch` says that a block which was said to be unchanged was not: everything was
    read then, so that this restore point is right; those before it need not be.
    """

    target: str
    path: str
    size: int
    block_size: int
    source: str | None
    image_format: str
    image_options: dict[str, str]
    stamps: tuple[ImageStamp, ...] = ()
    checkpoint: str | None = None
    had_internal_snapshots: bool = False
    comparisons: tuple[Comparison, ...] = ()
    mismatch: bool = False

    @property
    def all_compared_since(self) -> datetime | None:
        """Since then every byte of the disk has been read and compared; None if that is not known."""
        return min(self.comparisons, key=lambda known: known.at).when if self.comparisons else None


@dataclass(frozen=True, slots=True)
class SideFilePoint:
    """A file or directory beside the disks, within a restore point.

    `role` as in SideFile; `source` is where it was on the host, `path` where it lies in the snapshot's tree.
    """

    role: str
    source: str
    path: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A drive of the VM whose content is not in the restore point, and why."""

    target: str
    reason: str
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that a restore point says of itself: the text of its donjon.json.

    `format` is the version of this very structure; `consistency` the name of a Consistency in lower case. `frozen_s` is
    how long the guest's file systems were frozen, in seconds, None if they were not. Restore points of several VMs that
    were taken at one moment have the same `group`. `witness` says what the guest itself found in some of its files: the
    SHA-256 by path, in hex.
    """

    format: int
    program: str
    vm_uuid: str
    vm_name: str
    host: str
    taken_at: datetime
    method: str
    consistency: str
    disks: tuple[DiskPoint, ...]
    side_files: tuple[SideFilePoint, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    frozen_s: float | None = None
    group: str | None = None
    witness: dict[str, str] = field(default_factory=dict)

    def disk(self, target: str) -> DiskPoint | None:
        """The disk of that name, if it is in the restore point."""
        return next((disk for disk in self.disks if disk.target == target), None)

    def beside(self, target: str) -> tuple[DiskPoint, ...]:
        """All disks but that one."""
        return tuple(disk for disk in self.disks if disk.target != target)


@dataclass(frozen=True, slots=True)
class RestorePoint:
    """A VM at one moment, as the repository lists it.

    `id` is the snapshot's (64 hex digits). `origin` is the id it had when it was taken, which stays when a snapshot is
    tagged, rewritten or copied. `tree` is the id of its root tree (32 bytes), `size` the bytes of its disks.
    """

    id: str
    origin: str
    vm_uuid: str
    vm_name: str
    host: str
    taken_at: datetime
    method: str
    consistency: str
    size: int
    tree: bytes
