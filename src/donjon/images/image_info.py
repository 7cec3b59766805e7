# SPDX-License-Identifier: Apache-2.0
"""What is known of a disk image before it is opened: its format, size, and the files it is made of."""

from __future__ import annotations

from dataclasses import dataclass, field

from donjon.model.restore_point import ImageStamp


@dataclass(frozen=True, slots=True)
class ImageLayer:
    """One image of a chain. `files` are all it is made of: itself first, then external data files or extents."""

    path: str
    format: str
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bitmap:
    """A dirty bitmap kept in a qcow2 image.

    `granularity` in bytes. One that is not `enabled` has missed changes; one that is not `consistent` was in use
    when its user died, and may have.
    """

    name: str
    granularity: int
    enabled: bool
    consistent: bool


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """A disk image and everything behind it.

    `size` is the disk's, in bytes, as the guest sees it; exact for raw images, which may have any size. `chain` is the
    image itself, then its backing files, nearest first. `options` are those to create a like image with (qcow2 only).
    `stamps` were taken before anything else was looked at, one for each file of the chain, in order.
    """

    path: str
    format: str
    size: int
    chain: tuple[ImageLayer, ...]
    stamps: tuple[ImageStamp, ...]
    options: dict[str, str] = field(default_factory=dict)
    bitmaps: tuple[Bitmap, ...] = ()
    internal_snapshots: bool = False
