# SPDX-License-Identifier: Apache-2.0
"""What changed between two restore points is counted from their maps."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from donjon.repository.block_map import BlockMap
from donjon.restore.diff import changed_bytes, diff_definitions

disks = st.binary(max_size=40)


def block_map(content: bytes, block_size: int = 4) -> BlockMap:
    """Of a disk whose blocks are their own ids."""
    made = BlockMap(len(content), block_size)
    for start in range(0, len(content), block_size):
        made.append(content[start : start + block_size].ljust(32, b"\0"))
    return made


@given(disks, disks)
def test_blocks_that_differ_are_counted_whatever_the_sizes(before: bytes, after: bytes) -> None:
    common = min(len(before), len(after))
    expected = max(len(before), len(after)) - common
    for start in range(0, common, 4):
        if before[start : start + 4].ljust(4, b"\0") != after[start : start + 4].ljust(4, b"\0"):
            expected += min(4, common - start)
    with block_map(before) as old, block_map(after) as new:
        assert changed_bytes(old, new) == changed_bytes(new, old) == expected


@given(disks)
def test_a_disk_does_not_differ_from_itself(content: bytes) -> None:
    with block_map(content) as old, block_map(content) as new:
        assert changed_bytes(old, new) == 0


def test_blocks_of_different_size_cannot_be_compared() -> None:
    with block_map(b"12345678") as old, block_map(b"12345678", block_size=8) as new:
        assert changed_bytes(old, new) is None


def test_a_definition_differs_by_lines() -> None:
    lines = diff_definitions("<a>\n<b/>\n</a>", "<a>\n<c/>\n</a>")
    assert [line for line in lines if line[0] in "+-"] == ["--- before", "+++ after", "-<b/>", "+<c/>"]
    assert diff_definitions(None, None) == ()
