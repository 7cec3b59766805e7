# SPDX-License-Identifier: Apache-2.0
"""The plan of a backup says of every block what a look at each single byte would have said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from donjon.backup.plan import Action, plan_runs
from donjon.model.extent import Extent, Kind

stretches = st.lists(st.tuples(st.integers(1, 40), st.sampled_from(Kind)), max_size=20)


def tile(pieces: list[tuple[int, Kind]]) -> tuple[list[Extent], int]:
    extents, at = [], 0
    for length, kind in pieces:
        extents.append(Extent(at, length, kind))
        at += length
    return extents, at


def look_at_each_byte(extents: list[Extent], size: int, block_size: int) -> list[Action]:
    kinds = [extent.kind for extent in extents for _ in range(extent.length)]
    known = {frozenset({Kind.ZERO}): Action.ZERO, frozenset({Kind.CLEAN}): Action.KEEP}
    return [known.get(frozenset(kinds[at : at + block_size]), Action.READ) for at in range(0, size, block_size)]


@given(stretches, st.integers(1, 33))
def test_every_block_is_planned_as_its_bytes_ask_for(pieces: list[tuple[int, Kind]], block_size: int) -> None:
    extents, size = tile(pieces)
    runs = list(plan_runs(extents, size, block_size))
    assert [run.action for run in runs for _ in range(run.blocks)] == look_at_each_byte(extents, size, block_size)


@given(stretches, st.integers(1, 33))
def test_runs_follow_one_another_and_differ_from_their_neighbours(
    pieces: list[tuple[int, Kind]], block_size: int
) -> None:
    extents, size = tile(pieces)
    end, action = 0, None
    for run in plan_runs(extents, size, block_size):
        assert run.start == end
        assert run.action is not action
        assert run.blocks > 0
        end, action = run.start + run.blocks, run.action
    assert end == -(-size // block_size)


@given(stretches.filter(bool), st.integers(1, 33), st.data())
def test_extents_that_do_not_tile_the_disk_are_refused(
    pieces: list[tuple[int, Kind]], block_size: int, data: st.DataObject
) -> None:
    extents, size = tile(pieces)
    at = data.draw(st.integers(0, len(extents) - 1))
    shift = data.draw(st.sampled_from([-2, -1, 1, 2]))
    moved = extents[at]._replace(offset=extents[at].offset + shift)
    longer = extents[at]._replace(length=extents[at].length + shift)
    empty = Extent(extents[at].offset, 0, Kind.ZERO)
    wrong = data.draw(
        st.sampled_from(
            [
                [*extents[:at], moved, *extents[at + 1 :]],
                [*extents[:at], longer, *extents[at + 1 :]],
                [*extents[:at], empty, *extents[at:]],
                [*extents[:at], *extents[at + 1 :]],
                [*extents, extents[-1]],
            ]
        )
    )
    with pytest.raises(ValueError, match="extents"):
        list(plan_runs(wrong, size, block_size))


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_a_disk_of_which_nothing_is_said_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="extents"):
        list(plan_runs([], size, 512))


def test_a_disk_of_no_size_needs_no_plan() -> None:
    assert list(plan_runs([], 0, 512)) == []
