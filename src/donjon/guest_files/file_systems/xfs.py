# SPDX-License-Identifier: Apache-2.0
"""XFS, by libfsxfs; what it gets wrong put right: long link targets, times before 1970.

Source: the kernel's fs/xfs/libxfs/xfs_format.h, "struct xfs_dsymlink_hdr", "struct xfs_sb",
XFS_SB_FEAT_INCOMPAT_BIGTIME.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyfsxfs

from donjon.errors import HostError
from donjon.guest_files.acl import from_xfs
from donjon.guest_files.disk import File, Source
from donjon.guest_files.file_systems.file_system import PARSER_ERRORS, Attributes, Extras, Node, is_file, why
from donjon.guest_files.file_systems.libyal import UnixNode

CONTENT = "xfs"
_SECURE = "secure."
_BIGTIME = 0x8
_LINK_HEADER = 56
_ACLS = {"trusted.SGI_ACL_FILE": "system.posix_acl_access", "trusted.SGI_ACL_DEFAULT": "system.posix_acl_default"}


def recognises(source: Source) -> bool:
    """Whether an XFS begins here."""
    return source.read_at(0, 4) == b"XFSB"


class Xfs:
    """An XFS. Raises one of PARSER_ERRORS if it cannot be read."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.has_bigtime = bool(int.from_bytes(source.read_at(216, 4), "big") & _BIGTIME)
        self._volume = pyfsxfs.volume()
        self._file = File(source)
        self._volume.open_file_object(self._file)
        self.label = self._volume.label or ""
        has_realtime = any(source.read_at(16, 8))
        self.note = "it has a realtime part: files there cannot be read" if has_realtime else ""

    def root(self) -> Node:
        """The top directory."""
        return _XfsNode(self, self._volume.root_directory, "")


class _XfsNode(UnixNode):
    def __init__(self, xfs: Xfs, entry: Any, name: str) -> None:
        super().__init__(entry, name)
        self._xfs = xfs

    def attributes(self) -> Attributes:
        """What stat(2) would tell."""
        attributes = super().attributes()
        if attributes.mtime_ns >= 0 or self._xfs.has_bigtime:
            return attributes
        seconds, fraction = divmod(-attributes.mtime_ns, 10**9)  # the library takes the fraction off, not on
        return replace(attributes, mtime_ns=-seconds * 10**9 + fraction)

    def extras(self) -> Extras:
        """Extended attributes, and where a file has data."""
        lacks: list[str] = []
        xattrs: dict[str, bytes] = {}
        for number in range(self._entry.number_of_extended_attributes):
            attribute = self._entry.get_extended_attribute(number)
            try:
                value = attribute.read_buffer(attribute.size) if attribute.size else b""
                xattrs |= _as_the_kernel_says(attribute.name, value)
            except PARSER_ERRORS as error:  # large values, in blocks of their own, are not known to the library
                lacks.append(f"extended attribute {attribute.name}: {why(error)}")
        return Extras(xattrs, self._ranges() if is_file(self._entry.file_mode) else [], lacks)

    def _target(self) -> str:
        target = super()._target()
        if len(target.encode()) == self._entry.size:
            return target
        offset, _, _ = self._entry.get_extent(0)
        header = self._xfs.source.read_at(offset, _LINK_HEADER)
        if header[:4] != b"XSLM" or int.from_bytes(header[8:12], "big") != self._entry.size:
            raise HostError("the target of the link is in several blocks")
        return self._xfs.source.read_at(offset + _LINK_HEADER, self._entry.size).decode()

    def _child(self, entry: Any, name: str) -> Node:
        return _XfsNode(self._xfs, entry, name)


def _as_the_kernel_says(name: str, value: bytes) -> dict[str, bytes]:
    if name in _ACLS:
        return {_ACLS[name]: from_xfs(value)}
    return {f"security.{name.removeprefix(_SECURE)}" if name.startswith(_SECURE) else name: value}
