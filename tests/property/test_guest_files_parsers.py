# SPDX-License-Identifier: Apache-2.0
"""Our own parsers of what guests write end in a result or in an error that the reader expects, whatever the bytes."""

from __future__ import annotations

import struct
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from donjon.guest_files.acl import from_ext, from_xfs
from donjon.guest_files.block_layers import luks, lvm
from donjon.guest_files.file_systems.ext_inode import Inode, Superblock
from donjon.guest_files.file_systems.file_system import PARSER_ERRORS, data_ranges

TEXT = 'vg { seqno = 1 extent_size = 8 physical_volumes { pv0 { id = "a" pe_start = 1 } } logical_volumes { x { '
WORDS = st.sampled_from(["{", "}", "[", "]", "=", ",", '"pv0"', "striped", "7", "x", "#", "segment1", "stripes", "\n"])


class Memory:
    """Bytes as a source."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.size = len(content)

    def read_at(self, offset: int, length: int) -> bytes:
        return self.content[offset : offset + max(length, 0)]


@given(st.binary(max_size=200))
def test_acls(value: bytes) -> None:
    for parse in (from_ext, from_xfs):
        with suppress(*PARSER_ERRORS):
            assert len(parse(value)) % 8 == 4


@given(st.lists(st.tuples(st.sampled_from([1, 4, 16, 32]), st.integers(0, 7)), max_size=9))
def test_acls_come_out_as_the_kernel_has_them(entries: list[tuple[int, int]]) -> None:
    kernel = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry, 2**32 - 1) for entry in entries)
    assert from_ext(struct.pack("<I", 1) + b"".join(struct.pack("<HH", *entry) for entry in entries)) == kernel
    xfs = struct.pack(">I", len(entries)) + b"".join(struct.pack(">IIHH", t, 2**32 - 1, m, 0) for t, m in entries)
    assert from_xfs(xfs) == kernel


@given(st.lists(WORDS, max_size=60), st.booleans())
def test_descriptions_of_volume_groups(words: list[str], begun: bool) -> None:
    volume = lvm.PhysicalVolume("a", (TEXT if begun else "") + " ".join(words), Memory(bytes(1 << 16)))
    with suppress(*PARSER_ERRORS):
        for _, logical in lvm.logical_volumes([volume]):
            if not isinstance(logical, str):
                assert len(logical.read_at(0, 100)) == min(100, logical.size)


@settings(max_examples=200)
@given(st.binary(min_size=60, max_size=400), st.integers(0, 40), st.binary(max_size=600))
def test_headers(superblock: bytes, inode: int, rest: bytes) -> None:
    head = bytearray(1024) + superblock.ljust(1024, b"\0") + rest
    head[1024 + 56 : 1024 + 58] = b"\x53\xef"
    source = Memory(bytes(head))
    with suppress(*PARSER_ERRORS):
        found = Inode(source, Superblock.read(source), inode)
        assert isinstance(found.xattrs(), dict)
    for prefix in (b"LUKS\xba\xbe\0\2\0\0\0\0\0\0\x20\0", b"LABELONE"):
        damaged = Memory(prefix + bytes(4096 - len(prefix)) + superblock + rest)
        with suppress(*PARSER_ERRORS):
            luks.unlock(damaged, ["x"])
        with suppress(*PARSER_ERRORS):
            lvm.read_physical_volume(damaged)


@given(st.lists(st.tuples(st.integers(1, 9), st.booleans()), max_size=20), st.integers(0, 100))
def test_ranges_are_where_the_data_is(extents: list[tuple[int, bool]], size: int) -> None:
    bits = "".join(("0" if hole else "1") * length for length, hole in extents)[:size]
    ranges = data_ranges(iter(extents), size)
    assert [at for offset, length in ranges for at in range(offset, offset + length)] == [
        at for at, bit in enumerate(bits) if bit == "1"
    ]
