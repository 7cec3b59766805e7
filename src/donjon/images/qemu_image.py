# SPDX-License-Identifier: Apache-2.0
"""A disk image of any format QEMU knows, with all that lies behind it, read through qemu-nbd.

Source: QEMU's docs/interop/nbd.txt and the NBD project's doc/proto.md, "base:allocation metadata context".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

from donjon.errors import HostError
from donjon.images.image_info import ImageInfo
from donjon.images.qemu_nbd import exported
from donjon.model.extent import Extent, Kind
from donjon.nbd.client import NbdClient
from donjon.nbd.protocol import Allocation, DirtyBitmap, Status

ALLOCATION = "base:allocation"


class QemuImage:
    """A BlockSource; made by `open_with_qemu`."""

    def __init__(self, client: NbdClient, *, incremental: bool) -> None:
        self._client = client
        self._incremental = incremental
        self.read_into = client.read_into

    @property
    def size(self) -> int:
        """Of the disk, in bytes."""
        return self._client.size

    def extents(self) -> Iterator[Extent]:
        """DATA and ZERO, in an incremental CLEAN as well.

        Raises:
            HostError: the image cannot be examined.
        """
        stretches = self._client.block_status()
        return merge_neighbours(changes_in(stretches) if self._incremental else content_in(stretches))


@contextmanager
def open_with_qemu(info: ImageInfo, bitmap: str | None, *, force_share: bool) -> Iterator[QemuImage]:
    """Open an image for reading.

    Args:
        info: what `probe` found.
        bitmap: what it does not call dirty is CLEAN; None: nothing is known.
        force_share: read although another program may write to it.

    Raises:
        HostError: it cannot be opened, has no such bitmap, or has another size than it had.
    """
    description = _shared_description(info) if force_share else ""
    options = ["--read-only", *(["--image-opts"] if force_share else ["--format", info.format])]
    contexts = [ALLOCATION]
    if bitmap is not None:
        options += ["--bitmap", bitmap]
        contexts.append(f"qemu:dirty-bitmap:{bitmap}")
    with exported(info.path, *options, contexts=contexts, description=description) as client:
        if client.size != info.size:
            raise HostError(
                f"cannot read image {info.path}: its size has changed from {info.size} to {client.size} bytes"
            )
        yield QemuImage(client, incremental=bitmap is not None)


def content_in(stretches: Iterable[Status]) -> Iterator[Extent]:
    """What is known from allocation alone."""
    for stretch in stretches:
        zero = stretch.flags[0] & Allocation.ZERO
        yield Extent(stretch.offset, stretch.length, Kind.ZERO if zero else Kind.DATA)


def changes_in(stretches: Iterable[Status]) -> Iterator[Extent]:
    """What is known from allocation and dirty bitmap.

    Dirty and zero is ZERO: it may have held data before. So is what is zero without being dirty behind the last clean
    data: an image cut short and enlarged again reads as zeros there, and its bitmap does not tell. Clean data proves
    that no such thing happened before it.
    """
    undecided: list[Status] = []
    for stretch in stretches:
        allocation, bitmap = stretch.flags
        undecided.append(stretch)
        if not allocation & Allocation.ZERO and not bitmap & DirtyBitmap.DIRTY:
            yield from map(partial(_change, untouched=Kind.CLEAN), undecided)
            undecided = []
    yield from map(partial(_change, untouched=Kind.ZERO), undecided)


def _change(stretch: Status, untouched: Kind) -> Extent:
    """`untouched` is what to call a stretch that is not dirty."""
    allocation, bitmap = stretch.flags
    touched = Kind.ZERO if allocation & Allocation.ZERO else Kind.DATA
    return Extent(stretch.offset, stretch.length, touched if bitmap & DirtyBitmap.DIRTY else untouched)


def merge_neighbours(extents: Iterable[Extent]) -> Iterator[Extent]:
    """Adjacent extents of a kind as one."""
    merged: Extent | None = None
    for extent in extents:
        if merged is not None and extent.kind is merged.kind:
            merged = merged._replace(length=merged.length + extent.length)
            continue
        if merged is not None:
            yield merged
        merged = extent
    if merged is not None:
        yield merged


def _shared_description(info: ImageInfo) -> str:
    """The image for --image-opts, where a comma stands doubled."""
    return f"driver={info.format},force-share=on,file.filename={info.path.replace(',', ',,')}"
