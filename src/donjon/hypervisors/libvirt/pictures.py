# SPDX-License-Identifier: Apache-2.0
"""Turns the screenshots of older QEMUs, which are in PPM, into PNG.

Source: the Netpbm project's description of PPM (P6); RFC 2083.
"""

from __future__ import annotations

import re
import struct
import zlib

from donjon.errors import HostError

PNG_HEAD = b"\x89PNG\r\n\x1a\n"
_PPM_HEAD = re.compile(rb"P6\s+(?:#[^\n]*\n\s*)*(\d{1,5})\s+(\d{1,5})\s+255\s")
_TRUE_COLOUR = 2


def as_png(picture: bytes) -> bytes:
    """The same picture as PNG; one that is PNG stays as it is.

    Raises:
        HostError: it is neither PNG nor PPM with 8 bits per colour, or cut short.
    """
    if picture.startswith(PNG_HEAD):
        return picture
    head = _PPM_HEAD.match(picture)
    if head is None:
        raise HostError("cannot read the screenshot: it is neither PNG nor PPM")
    width, height = int(head[1]), int(head[2])
    pixels = memoryview(picture)[head.end() :]
    if not width or not height or len(pixels) < 3 * width * height:
        raise HostError("cannot read the screenshot: it is cut short")
    lines = b"".join(b"\0" + pixels[3 * width * row : 3 * width * (row + 1)] for row in range(height))
    size = struct.pack(">IIBBBBB", width, height, 8, _TRUE_COLOUR, 0, 0, 0)
    return PNG_HEAD + _chunk(b"IHDR", size) + _chunk(b"IDAT", zlib.compress(lines)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
