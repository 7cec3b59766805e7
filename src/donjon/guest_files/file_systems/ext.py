# SPDX-License-Identifier: Apache-2.0
"""ext2, ext3 and ext4: names and content by libfsext, the rest of an inode by ourselves."""

from __future__ import annotations

from typing import Any

import pyfsext

from donjon.errors import IntegrityError
from donjon.guest_files.disk import File, Source
from donjon.guest_files.file_systems.ext_inode import Inode, Superblock
from donjon.guest_files.file_systems.file_system import PARSER_ERRORS, Extras, Node, is_file, why
from donjon.guest_files.file_systems.libyal import UnixNode

CONTENT = "ext"


def recognises(source: Source) -> bool:
    """Whether an ext file system begins here."""
    return source.read_at(1080, 2) == b"\x53\xef"


class Ext:
    """An ext file system. Raises one of PARSER_ERRORS if it cannot be read."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.superblock = Superblock.read(source)
        self._volume = pyfsext.volume()
        self._file = File(source)
        self._volume.open_file_object(self._file)
        self.label = self._volume.label or ""
        self.note = "its journal is not replayed: what changed last may be missing" * self.superblock.needs_recovery

    def root(self) -> Node:
        """The top directory."""
        return _ExtNode(self, self._volume.root_directory, "")


class _ExtNode(UnixNode):
    def __init__(self, ext: Ext, entry: Any, name: str) -> None:
        super().__init__(entry, name)
        self._ext = ext
        self._known: Inode | None = None

    @property
    def _inode(self) -> Inode:
        if self._known is None:
            self._known = Inode(self._ext.source, self._ext.superblock, self._entry.inode_number)
        return self._known

    def extras(self) -> Extras:
        """Extended attributes, and where a file has data."""
        lacks = []
        xattrs: dict[str, bytes] = {}
        try:
            xattrs = self._inode.xattrs()
        except PARSER_ERRORS as error:
            lacks.append(why(error))
        if not is_file(self._entry.file_mode):
            return Extras(xattrs, lacks=lacks)
        if unreadable := self._inode.unreadable:
            return Extras(xattrs, lacks=lacks, unreadable=unreadable)
        inline = self._inode.inline_data() is not None
        size = self._entry.size
        return Extras(xattrs, [(0, size)] if inline and size else self._ranges(), lacks)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the file."""
        inline = self._inode.inline_data()
        if inline is None:
            return super().read(offset, length)
        data = inline[offset : offset + length]
        if len(data) != length:
            raise IntegrityError("the file ends before its end")
        return data

    def _target(self) -> str:
        inline = self._inode.inline_data()
        if inline is None:
            return super()._target()
        return inline[: self._entry.size].decode("utf-8", "replace")

    def _device(self) -> tuple[int, int]:
        return self._inode.device

    def _child(self, entry: Any, name: str) -> Node:
        return _ExtNode(self._ext, entry, name)
