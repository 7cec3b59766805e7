# SPDX-License-Identifier: Apache-2.0
"""FAT12, FAT16, FAT32 and exFAT, by The Sleuth Kit (libfsfat is a month off in its times).

FAT keeps local time without a zone: it is shown as if it were UTC.

Source: Microsoft, "FAT: General Overview of On-Disk Format"; "exFAT file system specification".
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import Any

import pytsk3

from donjon.errors import IntegrityError
from donjon.guest_files.disk import Source
from donjon.guest_files.file_systems.file_system import PARSER_ERRORS, Attributes, Extras, Node, why

CONTENT = "fat"
_VOLUME_LABEL = b" (Volume Label Entry)"
_VIRTUAL = (10, 11)


def recognises(source: Source) -> bool:
    """Whether a FAT or an exFAT begins here."""
    head = source.read_at(0, 512)
    if head[510:512] != b"\x55\xaa":
        return False
    if head[3:11] == b"EXFAT   ":
        return True
    sector = int.from_bytes(head[11:13], "little")
    return head[54:57] == b"FAT" or (head[82:87] == b"FAT32" and sector in {512, 1024, 2048, 4096})


class Fat:
    """A FAT. Raises one of PARSER_ERRORS if it cannot be read."""

    def __init__(self, source: Source) -> None:
        self._image = _Image(source)
        exfat = source.read_at(3, 8) == b"EXFAT   "
        kind = pytsk3.TSK_FS_TYPE_DETECT if exfat else pytsk3.TSK_FS_TYPE_FAT_DETECT
        self.volume = pytsk3.FS_Info(self._image, 0, kind)  # to look for others would read far into the disk
        self.label = ""
        self.note = ""
        for entry in self.volume.open_dir("/"):
            if entry.info.name.name.endswith(_VOLUME_LABEL):
                self.label = entry.info.name.name.removesuffix(_VOLUME_LABEL).decode("utf-8", "replace").rstrip()

    def root(self) -> Node:
        """The top directory."""
        return _FatNode(self.volume.open_meta(self.volume.info.root_inum), "")


class _Image(pytsk3.Img_Info):  # type: ignore[misc]  # the library has no types
    def __init__(self, source: Source) -> None:
        self._source = source
        super().__init__(url="", type=pytsk3.TSK_IMG_TYPE_EXTERNAL)

    def close(self) -> None:
        """The source is its owner's to close."""

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from `offset` on."""
        return self._source.read_at(offset, length)

    def get_size(self) -> int:
        """How many bytes there are."""
        return self._source.size


class _FatNode:
    def __init__(self, file: Any, name: str) -> None:
        self.name = name
        self._file = file

    def attributes(self) -> Attributes:
        """What stat(2) would tell; FAT knows of no owner."""
        meta = self._file.info.meta
        directory = meta.type == pytsk3.TSK_FS_META_TYPE_DIR
        writable = meta.mode & 0o222
        mode = stat.S_IFDIR | 0o755 if directory else stat.S_IFREG | (0o644 if writable else 0o444)
        return Attributes(mode, 0 if directory else meta.size, meta.mtime * 10**9 + meta.mtime_nano, meta.addr)

    def extras(self) -> Extras:
        """Where the file has data: everywhere."""
        size = self._file.info.meta.size
        is_file = self._file.info.meta.type != pytsk3.TSK_FS_META_TYPE_DIR
        return Extras(ranges=[(0, size)] if size and is_file else [])

    def children(self) -> Iterator[Node | str]:
        """What the directory holds, but for what is deleted and what the library makes up."""
        for entry in self._file.as_directory():
            name, meta = entry.info.name, entry.info.meta
            if name.flags & pytsk3.TSK_FS_NAME_FLAG_UNALLOC or name.name in {b".", b".."}:
                continue
            if name.type in _VIRTUAL or name.name.endswith(_VOLUME_LABEL):
                continue
            try:
                if meta is None:
                    raise IntegrityError("what it stands for is damaged")
                yield _FatNode(entry, name.name.decode())
            except PARSER_ERRORS as error:
                yield why(error)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the file. Raises IntegrityError, OSError."""
        parts = []
        while length:
            part = self._file.read_random(offset, length)
            if not part:
                raise IntegrityError("the file ends before its end")
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return b"".join(parts)
