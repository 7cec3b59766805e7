# SPDX-License-Identifier: Apache-2.0
"""What the first bytes of a disk image say: its format, and which other files it is made of.

Source: qemu, docs/interop/qcow2.txt and qed_spec.txt; VMware, "Virtual Disk Format 5.0"; Microsoft, "Virtual Hard Disk
Image Format Specification" 1.0.
"""

from __future__ import annotations

import re
import struct

from msgspec import Struct

WINDOW = 2048
"""How many bytes of an image the collector brings."""

_EXTERNAL_DATA = 1 << 2
_BACKING_FORMAT = 0xE2792ACA
_DATA_FILE = 0x44415441
_VHD_DIFFERENCING = 4


class Header(Struct, frozen=True):
    """`backing`: the image behind it, as it is written there; `parts`: further files that hold its data."""

    format: str
    backing: str = ""
    parts: tuple[str, ...] = ()


def parse_header(data: bytes) -> Header:
    """The header of an image; a format that is not known is raw.

    Raises:
        ValueError: it is damaged, or refers to what lies beyond these bytes.
    """
    try:
        for magic, parse in _PARSERS:
            if data.startswith(magic):
                return parse(data)
    except struct.error as error:
        raise ValueError("its header is cut off") from error
    return Header("raw")


def _qcow2(data: bytes) -> Header:
    version, offset, size = struct.unpack_from(">IQI", data, 4)
    backing = _text(data, offset, size) if offset else ""
    if version < 3:
        return Header("qcow" if version == 1 else "qcow2", backing)
    (incompatible,) = struct.unpack_from(">Q", data, 72)
    (place,) = struct.unpack_from(">I", data, 100)
    parts: tuple[str, ...] = ()
    while True:
        kind, length = struct.unpack_from(">II", data, place)
        if kind == 0:
            break
        if kind == _DATA_FILE:
            parts = (_text(data, place + 8, length),)
        place += 8 + (length + 7) // 8 * 8
    if incompatible & _EXTERNAL_DATA and not parts:
        raise ValueError("it does not say where its data is")
    return Header("qcow2", backing, parts)


def _qed(data: bytes) -> Header:
    offset, size = struct.unpack_from("<II", data, 56)
    return Header("qed", _text(data, offset, size) if offset else "")


def _vmdk_sparse(data: bytes) -> Header:
    sector, sectors = struct.unpack_from("<QQ", data, 28)
    return _vmdk_descriptor(data[sector * 512 :]) if sector and sectors else Header("vmdk")


def _vmdk_descriptor(data: bytes) -> Header:
    text, end, _ = data.partition(b"\0")
    if not text.strip() or (not end and len(data) >= WINDOW - 512):
        raise ValueError("its descriptor is cut off")
    words = text.decode("utf-8", "surrogateescape")
    parent = re.search(r'^\s*parentFileNameHint\s*=\s*"([^"\n]*)"', words, re.MULTILINE)
    extents = re.findall(r'^\s*(?:RW|RDONLY|NOACCESS)\s+\d+\s+(?!SPARSE\b)\S+\s+"([^"\n]*)"', words, re.MULTILINE)
    return Header("vmdk", parent.group(1) if parent else "", tuple(extents))


def _vhd(data: bytes) -> Header:
    (place,) = struct.unpack_from(">Q", data, 16)
    (kind,) = struct.unpack_from(">I", data, 60)
    if kind != _VHD_DIFFERENCING:
        return Header("vhd")
    if data[place : place + 8] != b"cxsparse":
        raise ValueError("its header is cut off")
    name = data[place + 64 : place + 576].decode("utf-16-be", "replace").rstrip("\0")
    if not name:
        raise ValueError("it does not name its parent")
    return Header("vhd", name)


def _vhdx(_: bytes) -> Header:
    raise ValueError("whether a VHDX has a parent is not in its first bytes")


def _text(data: bytes, offset: int, size: int) -> str:
    if offset + size > len(data):
        raise ValueError("a name in its header is cut off")
    return data[offset : offset + size].decode("utf-8", "surrogateescape").encode("utf-8", "replace").decode()


_PARSERS = (
    (b"QFI\xfb", _qcow2),
    (b"QED\0", _qed),
    (b"KDMV", _vmdk_sparse),
    (b"# Disk Descriptor", _vmdk_descriptor),
    (b"conectix", _vhd),
    (b"vhdxfile", _vhdx),
    (b"LUKS\xba\xbe", lambda _: Header("luks")),
)
