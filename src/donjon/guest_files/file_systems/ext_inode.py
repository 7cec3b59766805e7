# SPDX-License-Identifier: Apache-2.0
"""What libfsext does not give of an ext inode: extended attributes whole, device numbers, data kept in the inode.

Source: the kernel's Documentation/filesystems/ext4 (super.rst, group_descr.rst, inodes.rst, attributes.rst,
inlinedata.rst); linux/kdev_t.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from donjon.errors import HostError, IntegrityError
from donjon.guest_files.acl import from_ext
from donjon.guest_files.disk import Source

_MAGIC = 0xEA020000
_PREFIXES = {
    1: "user.",
    2: "system.posix_acl_access",
    3: "system.posix_acl_default",
    4: "trusted.",
    6: "security.",
    7: "system.",
    8: "system.richacl",
}
_ACLS = frozenset({2, 3})
_INLINE = "system.data"
_META_BG, _NEEDS_RECOVERY, _64BIT = 0x10, 0x4, 0x80
_INLINE_DATA, _ENCRYPTED = 0x10000000, 0x800


@dataclass(frozen=True, slots=True)
class Superblock:
    """Where inodes are. Sizes in bytes."""

    block_size: int
    first_block: int
    inodes: int
    inodes_per_group: int
    inode_size: int
    descriptor_size: int
    needs_recovery: bool

    @classmethod
    def read(cls, source: Source) -> Superblock:
        """The file system's first. Raises IntegrityError, HostError."""
        raw = source.read_at(1024, 1024)
        if len(raw) < 1024 or raw[56:58] != b"\x53\xef":
            raise IntegrityError("cannot read an ext file system: it has no superblock")
        (inodes,) = struct.unpack_from("<I", raw)
        first, log = struct.unpack_from("<II", raw, 20)
        (per_group,) = struct.unpack_from("<I", raw, 40)
        revision, (inode_size,) = raw[76], struct.unpack_from("<H", raw, 88)
        (incompatible,) = struct.unpack_from("<I", raw, 96)
        if log > 6 or not per_group or (revision and not 128 <= inode_size <= 65536):
            raise IntegrityError("cannot read an ext file system: its superblock makes no sense")
        if incompatible & _META_BG:
            raise HostError("cannot read an ext file system: it has the feature meta_bg")
        wide = struct.unpack_from("<H", raw, 254)[0] if incompatible & _64BIT else 32
        size = inode_size if revision else 128
        return cls(1024 << log, first, inodes, per_group, size, max(32, wide), bool(incompatible & _NEEDS_RECOVERY))


class Inode:
    """One inode, and the block of extended attributes that may belong to it."""

    def __init__(self, source: Source, superblock: Superblock, number: int) -> None:
        if not 1 <= number <= superblock.inodes:
            raise IntegrityError(f"cannot read inode {number}: there is none")
        group, index = divmod(number - 1, superblock.inodes_per_group)
        at = (superblock.first_block + 1) * superblock.block_size + group * superblock.descriptor_size
        descriptor = source.read_at(at, superblock.descriptor_size)
        if len(descriptor) < 32:
            raise IntegrityError(f"cannot read inode {number}: its group is beyond the end")
        table = int.from_bytes(descriptor[8:12], "little")
        if len(descriptor) >= 64:
            table |= int.from_bytes(descriptor[40:44], "little") << 32
        self._raw = source.read_at(table * superblock.block_size + index * superblock.inode_size, superblock.inode_size)
        if len(self._raw) < 128:
            raise IntegrityError(f"cannot read inode {number}: it is beyond the end")
        self._source = source
        self._block_size = superblock.block_size
        (self._flags,) = struct.unpack_from("<I", self._raw, 32)

    @property
    def unreadable(self) -> str:
        """Why the content cannot be read, "" if it can."""
        return "it is encrypted (fscrypt)" if self._flags & _ENCRYPTED else ""

    @property
    def device(self) -> tuple[int, int]:
        """Major and minor number of a device node."""
        old, new = struct.unpack_from("<II", self._raw, 40)
        if old:
            return (old >> 8) & 0xFF, old & 0xFF
        return (new >> 8) & 0xFFF, (new & 0xFF) | ((new >> 12) & 0xFFF00)

    def inline_data(self) -> bytes | None:
        """The content, zero bytes behind it, if the inode itself keeps it. Raises IntegrityError, HostError."""
        if not self._flags & _INLINE_DATA:
            return None
        return self._raw[40:100] + self._all().get(_INLINE, b"")

    def xattrs(self) -> dict[str, bytes]:
        """Extended attributes, by the names and in the forms of the kernel. Raises IntegrityError, HostError."""
        return {name: value for name, value in self._all().items() if name != _INLINE}

    def _all(self) -> dict[str, bytes]:
        found = {}
        if len(self._raw) > 132:
            start = 128 + int.from_bytes(self._raw[128:130], "little")
            body = self._raw[start:]
            if body[:4] == _MAGIC.to_bytes(4, "little"):
                found.update(_entries(body[4:], 0))
        block = int.from_bytes(self._raw[104:108], "little") | int.from_bytes(self._raw[118:120], "little") << 32
        if block:
            body = self._source.read_at(block * self._block_size, self._block_size)
            if body[:4] != _MAGIC.to_bytes(4, "little"):
                raise IntegrityError("cannot read extended attributes: their block is damaged")
            found.update(_entries(body, 32))
        return found


def _entries(area: bytes, at: int) -> dict[str, bytes]:
    """Attributes of an area, its entries from `at` on and the offsets of its values from its beginning."""
    found: dict[str, bytes] = {}
    while at + 16 <= len(area) and area[at : at + 4] != bytes(4):
        name_length, prefix, offset, inode, size = struct.unpack_from("<BBHII", area, at)
        name = area[at + 16 : at + 16 + name_length]
        if inode:
            raise HostError("cannot read extended attributes: a value has an inode of its own (feature ea_inode)")
        value = area[offset : offset + size]
        if len(value) != size or len(name) != name_length or prefix not in _PREFIXES:
            raise IntegrityError("cannot read extended attributes: they are damaged")
        key = _PREFIXES[prefix] + name.decode("utf-8", "surrogateescape")
        found[key.encode("utf-8", "replace").decode()] = from_ext(value) if prefix in _ACLS else value
        at += (16 + name_length + 3) & ~3
    return found
