# SPDX-License-Identifier: Apache-2.0
"""POSIX ACLs as file systems keep them, turned into what the kernel calls system.posix_acl_*.

Source: linux/posix_acl_xattr.h; fs/ext4/acl.h; fs/xfs/libxfs/xfs_format.h, "struct xfs_acl".
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from donjon.errors import IntegrityError

_WITH_ID = frozenset({2, 8})
_NO_ID = 0xFFFFFFFF


def from_ext(value: bytes) -> bytes:
    """From ext's form: little endian, ids only where a user or group is named. Raises IntegrityError."""
    entries, at = [], 4
    try:
        if struct.unpack_from("<I", value) != (1,):
            raise IntegrityError("cannot read an ACL: unknown version")
        while at < len(value):
            tag, mode = struct.unpack_from("<HH", value, at)
            at += 4
            name = _NO_ID
            if tag in _WITH_ID:
                (name,) = struct.unpack_from("<I", value, at)
                at += 4
            entries.append((tag, mode, name))
    except struct.error as error:
        raise IntegrityError("cannot read an ACL: it is cut short") from error
    return _kernels(entries)


def from_xfs(value: bytes) -> bytes:
    """From XFS's form: big endian, a count first. Raises IntegrityError."""
    try:
        (count,) = struct.unpack_from(">I", value)
        entries = [struct.unpack_from(">IIH", value, 4 + 12 * number) for number in range(min(count, 8192))]
    except struct.error as error:
        raise IntegrityError("cannot read an ACL: it is cut short") from error
    return _kernels((tag & 0xFFFF, mode, name if tag in _WITH_ID else _NO_ID) for tag, name, mode in entries)


def _kernels(entries: Iterable[tuple[int, int, int]]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
