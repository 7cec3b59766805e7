# SPDX-License-Identifier: Apache-2.0
"""A block map tells which blob holds which block, as a plain list would."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from donjon.repository.block_map import BlockMap

IDS = [bytes([number]) * 32 for number in range(4)]
entries = st.lists(st.tuples(st.sampled_from(IDS), st.integers(1, 9)), max_size=30)


def filled(pieces: list[tuple[bytes, int]], block_size: int = 10, tail: int = 0) -> tuple[BlockMap, list[bytes]]:
    model = [blob for blob, times in pieces for _ in range(times)]
    block_map = BlockMap(max(0, len(model) * block_size - tail), block_size)
    for blob, times in pieces:
        block_map.append(blob, times)
    return block_map, model


@given(entries, st.integers(0, 9), st.integers(0, 280), st.integers(0, 280))
def test_ids_and_lengths_are_those_of_a_list(pieces: list[tuple[bytes, int]], tail: int, start: int, stop: int) -> None:
    block_map, model = filled(pieces, tail=tail)
    with block_map:
        assert (len(block_map), block_map.blocks, block_map.complete) == (len(model), len(model), True)
        assert block_map.ids(start, max(start, stop)) == b"".join(model[start : max(start, stop)])
        assert b"".join(block_map.parts()) == b"".join(model)
        assert sum(map(block_map.length_of, range(len(model)))) == block_map.size


@given(entries, st.integers(0, 280), st.integers(0, 280))
def test_runs_say_the_same_as_single_blocks(pieces: list[tuple[bytes, int]], start: int, stop: int) -> None:
    block_map, model = filled(pieces)
    stop = min(stop, len(model))
    with block_map:
        told = [(first + n, blob) for first, count, blob in block_map.runs(start, stop) for n in range(count)]
        assert told == [(at, model[at]) for at in range(start, stop)]


@given(entries.filter(bool))
def test_a_map_that_lacks_a_block_is_not_complete(pieces: list[tuple[bytes, int]]) -> None:
    block_map, model = filled(pieces)
    with block_map, BlockMap(block_map.size + 1, block_map.block_size) as longer:
        for blob in model:
            longer.append(blob)
        assert not longer.complete
        longer.append(IDS[0])
        assert longer.complete


@settings(max_examples=5)
@given(st.lists(st.tuples(st.sampled_from(IDS), st.integers(1, 100_000)), min_size=2, max_size=6))
def test_a_map_too_large_for_memory_is_the_same(pieces: list[tuple[bytes, int]]) -> None:
    block_map, _ = filled(pieces)
    with block_map:
        merged: list[tuple[bytes, int]] = []
        for _, count, blob in block_map.runs():
            if merged and merged[-1][0] == blob:
                merged[-1] = (blob, merged[-1][1] + count)
            else:
                merged.append((blob, count))
        expected: list[tuple[bytes, int]] = []
        for blob, times in pieces:
            if expected and expected[-1][0] == blob:
                expected[-1] = (blob, expected[-1][1] + times)
            else:
                expected.append((blob, times))
        assert merged == expected
