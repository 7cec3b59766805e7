# SPDX-License-Identifier: Apache-2.0
"""Opening a disk image of any kind for reading, and proving that it held still meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from threading import Lock

from donjon.errors import HostError
from donjon.images.image_info import ImageInfo
from donjon.images.qemu_image import open_with_qemu
from donjon.images.raw_image import open_raw
from donjon.images.stamps import changed_files, stamp_chain
from donjon.model.block_source import BlockSource
from donjon.model.extent import Extent, Kind
from donjon.model.restore_point import ImageStamp


class OpenImage:
    """A BlockSource; made by `open_image`. `stamps` were taken before the first byte was read."""

    def __init__(self, info: ImageInfo, stamps: tuple[ImageStamp, ...], source: BlockSource) -> None:
        self._info = info
        self._source = source
        self.stamps = stamps
        self.extents = source.extents
        self.read_into = source.read_into

    @property
    def size(self) -> int:
        """Of the disk, in bytes."""
        return self._source.size

    def verify_unchanged(self) -> None:
        """Do nothing if no file of the image has changed since it was opened. Of a device that cannot be told.

        Raises:
            HostError: one has.
        """
        if changed := changed_files(stamp_chain(self._info), self.stamps):
            raise HostError(
                f"cannot back up {self._info.path}: {changed[0]} changed while it was read",
                hint="see which program writes to it; a running guest must be shut down or suspended first",
            )


@contextmanager
def open_image(
    info: ImageInfo, *, base_bitmap: str | None = None, unchanged: bool = False, force_share: bool = False
) -> Iterator[OpenImage]:
    """Open an image for reading; on leaving the block without an error, prove that it has not changed meanwhile.

    Args:
        info: what `probe` found.
        base_bitmap: what this bitmap does not call dirty is CLEAN. The backing files must be as they were probed.
        unchanged: all of it is CLEAN. The whole image must be as it was probed; bytes can be read nevertheless.
        force_share: read although a (suspended) guest holds the image open.

    Raises:
        HostError: it cannot be opened, is not as it was probed, or changed while it was read.
    """
    stamps = stamp_chain(info)
    _check_as_probed(info, stamps, first=0 if unchanged else 1 if base_bitmap else len(stamps))
    with ExitStack() as held:
        if unchanged:
            source: BlockSource = _Unchanged(info.size, lambda: held.enter_context(_reader(info, None, force_share)))
        else:
            source = held.enter_context(_reader(info, base_bitmap, force_share))
        image = OpenImage(info, stamps, source)
        yield image
        image.verify_unchanged()


def _reader(info: ImageInfo, bitmap: str | None, force_share: bool) -> AbstractContextManager[BlockSource]:
    if info.format == "raw":
        return open_raw(info.path, info.size)
    return open_with_qemu(info, bitmap, force_share=force_share)


def _check_as_probed(info: ImageInfo, stamps: tuple[ImageStamp, ...], first: int) -> None:
    if changed := changed_files(stamps[first:], info.stamps[first:]):
        raise HostError(f"cannot read image {info.path}: {changed[0]} changed since it was examined", hint="try again")


class _Unchanged:
    """A disk known to be as it was; the image itself is only opened if somebody reads after all."""

    def __init__(self, size: int, open: Callable[[], BlockSource]) -> None:
        self.size = size
        self._open = open
        self._lock = Lock()
        self._source: BlockSource | None = None

    def extents(self) -> Iterator[Extent]:
        if self.size:
            yield Extent(0, self.size, Kind.CLEAN)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        with self._lock:
            if self._source is None:
                self._source = self._open()
        self._source.read_into(offset, buffer)
