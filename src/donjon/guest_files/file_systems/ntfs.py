# SPDX-License-Identifier: Apache-2.0
"""NTFS, by libfsntfs; what Unix does not know travels as the extended attributes that ntfs-3g gives it.

Source: Microsoft, MS-FSCC 2.1.2.1 "Reparse Tags" and 2.6 "File Attributes"; ntfs-3g(8).
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import Any

import pyfsntfs

from donjon.guest_files.disk import File, Source
from donjon.guest_files.file_systems.file_system import PARSER_ERRORS, Attributes, Extras, Node, data_ranges, why
from donjon.guest_files.file_systems.libyal import HOLE, read_exactly

CONTENT = "ntfs"
_READ_ONLY, _REPARSE, _COMPRESSED, _ENCRYPTED = 0x1, 0x400, 0x800, 0x4000
_FILE_NAME = 0x30
_UNIX_EPOCH = 116444736000000000  # in 100 ns since 1601
_INODE = (1 << 48) - 1
_FIRST_USERS = 24
_LARGEST_STREAM = 64 << 10


def recognises(source: Source) -> bool:
    """Whether an NTFS begins here."""
    return source.read_at(3, 8) == b"NTFS    "


class Ntfs:
    """An NTFS. Raises one of PARSER_ERRORS if it cannot be read."""

    def __init__(self, source: Source) -> None:
        self._volume = pyfsntfs.volume()
        self._file = File(source)
        self._volume.open_file_object(self._file)
        self.label = self._volume.name or ""
        self.note = ""

    def root(self) -> Node:
        """The top directory."""
        return _NtfsNode(self._volume.get_root_directory(), "", 5)


class _NtfsNode:
    def __init__(self, entry: Any, name: str, inode: int) -> None:
        self.name = name
        self._entry = entry
        self._inode = inode

    def attributes(self) -> Attributes:
        """What stat(2) would tell; nobody's owner is known, the mode is made up from the attributes."""
        entry = self._entry
        target = self._target()
        if target:
            mode = stat.S_IFLNK | 0o777
        elif entry.has_directory_entries_index():
            mode = stat.S_IFDIR | 0o755
        else:
            mode = stat.S_IFREG | (0o444 if entry.file_attribute_flags & _READ_ONLY else 0o644)
        names = sum(attribute.attribute_type == _FILE_NAME for attribute in entry.attributes)
        return Attributes(
            mode=mode,
            size=len(target) if target else entry.size or 0,
            mtime_ns=(entry.get_modification_time_as_integer() - _UNIX_EPOCH) * 100,
            inode=self._inode,
            links=max(1, names),
            target=target,
        )

    def extras(self) -> Extras:
        """The security descriptor and small alternate streams, and where the file has data."""
        entry, lacks = self._entry, []
        xattrs: dict[str, bytes] = {}
        try:
            if descriptor := entry.security_descriptor_data:
                xattrs["system.ntfs_acl"] = descriptor
            for number in range(entry.number_of_alternate_data_streams):
                stream = entry.get_alternate_data_stream(number)
                if stream.size > _LARGEST_STREAM:
                    lacks.append(f"the stream {stream.name}: it is larger than 64 KiB")
                else:
                    xattrs[f"user.{stream.name}"] = read_exactly(stream, 0, stream.size)
        except PARSER_ERRORS as error:
            lacks.append(why(error))
        if entry.has_directory_entries_index() or self._target():
            return Extras(xattrs, lacks=lacks)
        if unreadable := self._unreadable():
            return Extras(xattrs, lacks=lacks, unreadable=unreadable)
        return Extras(xattrs, self._ranges(), lacks)

    def children(self) -> Iterator[Node | str]:
        """What the directory holds, but for the file system's own files."""
        for number in range(self._entry.number_of_sub_file_entries):
            try:
                entry = self._entry.get_sub_file_entry(number)
                inode = entry.file_reference & _INODE
                if inode >= _FIRST_USERS:
                    yield _NtfsNode(entry, entry.name, inode)
            except PARSER_ERRORS as error:
                yield why(error)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the file. Raises IntegrityError, OSError."""
        return read_exactly(self._entry, offset, length)

    def _target(self) -> str:
        if not self._entry.file_attribute_flags & _REPARSE:
            return ""
        target = self._entry.symbolic_link_target or ""
        return str(target).removeprefix("\\??\\").replace("\\", "/")

    def _unreadable(self) -> str:
        flags = self._entry.file_attribute_flags
        if flags & _ENCRYPTED:
            return "it is encrypted (EFS)"
        if flags & _REPARSE:
            return "its content is elsewhere: a reparse point (compressed by the system, deduplicated or in a cloud)"
        return ""

    def _ranges(self) -> list[tuple[int, int]]:
        entry, size = self._entry, self._entry.size
        if not size:
            return []
        if entry.file_attribute_flags & _COMPRESSED or not entry.number_of_extents:
            return [(0, size)]
        extents = (entry.get_extent(number) for number in range(entry.number_of_extents))
        return data_ranges(((length, bool(flags & HOLE)) for _, length, flags in extents), size)
