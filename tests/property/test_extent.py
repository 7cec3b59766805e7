# SPDX-License-Identifier: Apache-2.0
"""Extents are passed on exactly if they tile the disk."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from donjon.model.extent import Extent, Kind, check_cover

kinds = st.sampled_from(Kind)
lengths = st.integers(1, 2**43)


@st.composite
def tilings(draw: st.DrawFn, min_size: int = 0) -> tuple[list[Extent], int]:
    """Extents that tile a disk, and its size."""
    parts = draw(st.lists(st.tuples(lengths, kinds), min_size=min_size, max_size=20))
    ends = list(accumulate(length for length, _ in parts))
    extents = [Extent(end - length, length, kind) for end, (length, kind) in zip(ends, parts, strict=True)]
    return extents, ends[-1] if ends else 0


def tiles(extents: list[Extent], size: int) -> bool:
    """Whether each byte of a small disk is in one extent, and the extents are in order; said plainly."""
    covered = [byte for extent in extents for byte in range(extent.offset, extent.offset + extent.length)]
    return covered == list(range(size)) and all(extent.length > 0 for extent in extents)


@given(tilings())
def test_a_tiling_passes_unchanged(tiling: tuple[list[Extent], int]) -> None:
    extents, size = tiling
    assert list(check_cover(extents, size)) == extents


@given(
    st.lists(st.builds(Extent, st.integers(-2, 8), st.integers(-2, 8), kinds), max_size=4),
    st.integers(0, 8),
)
def test_passes_exactly_what_covers_each_byte_once(extents: list[Extent], size: int) -> None:
    try:
        passed = list(check_cover(extents, size)) == extents
    except ValueError:
        passed = False
    assert passed == tiles(extents, size)


@given(tilings(min_size=1), st.data())
def test_one_fault_is_found_and_named(tiling: tuple[list[Extent], int], data: st.DataObject) -> None:
    extents, size = tiling
    place = data.draw(st.integers(0, len(extents) - 1))
    change = data.draw(st.integers(-(2**43), 2**43).filter(bool))
    fault = extents[place]
    extents[place] = fault._replace(offset=fault.offset + change)
    with pytest.raises(ValueError, match=f"expected offset {fault.offset},"):
        list(check_cover(extents, size))


@given(tilings(min_size=1), st.data())
def test_an_extent_that_is_left_out_or_given_twice_is_missed(
    tiling: tuple[list[Extent], int], data: st.DataObject
) -> None:
    extents, size = tiling
    place = data.draw(st.integers(0, len(extents) - 1))
    for faulty in (extents[:place] + extents[place + 1 :], extents[: place + 1] + extents[place:]):
        with pytest.raises(ValueError, match="extents"):
            list(check_cover(faulty, size))


@given(tilings(), st.integers(-(2**43), 2**43).filter(bool))
def test_a_disk_of_another_size_is_refused(tiling: tuple[list[Extent], int], change: int) -> None:
    extents, size = tiling
    with pytest.raises(ValueError, match=f"extents end at {size}, the disk at {size + change}"):
        list(check_cover(extents, size + change))


@given(tilings(min_size=1))
def test_an_empty_extent_is_refused(tiling: tuple[list[Extent], int]) -> None:
    extents, size = tiling
    with pytest.raises(ValueError, match="do not tile"):
        list(check_cover([*extents, Extent(size, 0, Kind.ZERO)], size))
