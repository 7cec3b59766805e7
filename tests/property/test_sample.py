# SPDX-License-Identifier: Apache-2.0
"""Whenever backups run, every block said to be unchanged is compared within the time asked for, and little more."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from donjon.backup.plan import Action, Run
from donjon.backup.sample import Sampling, Stretch, choose_stretches, compare_in, note_comparison
from donjon.model.restore_point import Comparison, DiskPoint

MIB = 1 << 20
DAY = 86_400
START = 1_700_000_000
INTERVALS = {
    "every hour": lambda _: 3600,
    "every night": lambda _: DAY,
    "once a week": lambda _: 7 * DAY,
    "at any time": lambda chance: chance.randrange(1, 2 * DAY),
    "often, then seldom": lambda chance: chance.choice([60, 60, 60, 60, 10 * DAY]),
}


class Disk:
    """A disk of large blocks, and when each was really compared."""

    def __init__(self, blocks: int, sampling: Sampling, block_size: int = 64 * MIB) -> None:
        self.sampling = sampling
        self.block_size = block_size
        self.now = START
        self.compared_at = [START] * blocks
        self.known = note_comparison((), blocks, [(0, blocks)], START)
        self.work = 0

    def run(self, now: int) -> list[Stretch]:
        blocks = len(self.compared_at)
        count = self.sampling.count(blocks, self.block_size, now - self.now)
        chosen = choose_stretches(self.known, blocks, count, now)
        assert sum(stop - start for start, stop in chosen) == count
        for start, stop in chosen:
            self.compared_at[start:stop] = [now] * (stop - start)
        self.known = note_comparison(self.known, blocks, chosen, now)
        self.now = now
        self.work += count
        return chosen


def spread(known: tuple[Comparison, ...], blocks: int) -> list[int]:
    """When each block was compared, as it is known; proves that the stretches tile the disk."""
    times: list[int] = []
    for start, length, at in known:
        assert start == len(times)
        assert length > 0
        times += [at] * length
    assert len(times) == blocks
    return times


@pytest.mark.parametrize("interval", INTERVALS.values(), ids=INTERVALS)
@pytest.mark.parametrize("days", [7, 30])
def test_no_block_waits_longer_than_it_may(days: int, interval: object) -> None:
    chance = random.Random(days)
    disk = Disk(1_000, Sampling(days))
    runs = 0
    while disk.now < START + 100 * DAY:
        step = interval(chance)  # type: ignore[operator]
        before, work = disk.compared_at[:], disk.work
        disk.run(disk.now + step)
        runs += 1
        longest = max(disk.now - at for at in before)
        assert longest <= days * DAY + step
        assert disk.work - work <= 1_000 * step / (days * DAY) + 1
        assert len(disk.known) <= 64
        known = spread(disk.known, 1_000)
        assert all(said <= true for said, true in zip(known, disk.compared_at, strict=True))
        assert min(disk.compared_at) - min(known) <= days * DAY / 20 + step
    assert disk.work <= 1_000 * (disk.now - START) / (days * DAY) + runs


def test_a_small_disk_is_done_in_few_runs() -> None:
    disk = Disk(64, Sampling(30), block_size=MIB)
    for number in range(4):
        assert disk.run(disk.now + 60) == [(16 * number, 16 * number + 16)]
    assert min(disk.compared_at) == START + 60


def test_after_a_long_pause_everything_is_compared_once() -> None:
    assert Disk(1000, Sampling(30)).run(START + 400 * DAY) == [(0, 1000)]


@pytest.mark.parametrize(
    ("sampling", "count"), [(Sampling(0), 0), (Sampling(all=True), 1000), (Sampling(0, all=True), 1000)]
)
def test_nothing_or_all_is_compared_if_so_asked_for(sampling: Sampling, count: int) -> None:
    assert sampling.count(1000, 64 * MIB, 0) == sampling.count(1000, 64 * MIB, 10 * DAY) == count


@pytest.mark.parametrize("jump", [-1, -3600, -10 * DAY, -400 * DAY, 10 * DAY, 4000 * DAY])
def test_a_clock_that_jumps_does_not_keep_blocks_from_being_compared(jump: int) -> None:
    disk = Disk(1000, Sampling(30))
    for _ in range(10):
        disk.run(disk.now + DAY)
    seen: set[int] = set()
    clock = disk.now + jump
    for number in range(31):
        for start, stop in disk.run(clock + number * DAY):
            seen.update(range(start, stop))
    assert seen == set(range(1000))


def test_a_base_of_the_future_does_not_keep_blocks_from_being_compared() -> None:
    """Every backup builds upon the newest restore point, and that is the one that a wrong clock made, for long."""
    disk = Disk(1000, Sampling(30))
    disk.run(START + 1000 * DAY)
    assert disk.sampling.count(1000, disk.block_size, START - disk.now) == 1000


@pytest.mark.parametrize(
    "known",
    [
        (),
        (Comparison(5, 5, START),),
        (Comparison(0, 5, START), Comparison(4, 6, START)),
        (Comparison(0, -3, START), Comparison(-3, 13, START)),
        (Comparison(0, 0, START), Comparison(0, 10, START)),
        tuple(Comparison(at, 1, START) for at in range(100)),
    ],
)
def test_what_makes_no_sense_is_taken_for_nothing(known: tuple[Comparison, ...]) -> None:
    assert note_comparison(known, 100, [(0, 3)], START) == (Comparison(0, 3, START), Comparison(3, 97, 0))


@pytest.mark.parametrize("at", [-1, -(1 << 80), 1 << 80])
def test_impossible_times_are_long_ago(at: int) -> None:
    known = (Comparison(0, 50, at), Comparison(50, 50, START - 1))
    assert choose_stretches(known, 100, 10, START) == [(0, 10)]


def test_blocks_that_a_disk_has_grown_by_come_first() -> None:
    known = (Comparison(0, 10, START),)
    assert choose_stretches(known, 15, 7, START + 1) == [(0, 2), (10, 15)]
    assert note_comparison(known, 4, [], START + 1) == (Comparison(0, 4, START),)


def test_when_all_was_last_compared_is_known() -> None:
    disk = DiskPoint("vda", "/web/vda/vda.raw", 1, 1, None, "raw", {})
    assert disk.all_compared_since is None
    disk = DiskPoint("vda", "", 3, 1, None, "raw", {}, comparisons=(Comparison(0, 2, 50), Comparison(2, 1, 40)))
    assert disk.all_compared_since
    assert disk.all_compared_since.timestamp() == 40
    for at in (0, -5, 1 << 70):
        assert (
            DiskPoint("vda", "", 1, 1, None, "raw", {}, comparisons=(Comparison(0, 1, at),)).all_compared_since is None
        )


@st.composite
def plans(draw: st.DrawFn) -> tuple[list[Run], list[Stretch]]:
    runs, at = [], 0
    for length, action in draw(st.lists(st.tuples(st.integers(1, 9), st.sampled_from([*Action][:3])), max_size=9)):
        runs.append(Run(at, length, action))
        at += length
    cuts = sorted(draw(st.sets(st.integers(0, max(at, 1)), max_size=8)))
    return runs, list(zip(cuts[::2], cuts[1::2], strict=False))


@given(plans())
def test_what_would_be_kept_is_compared_where_it_was_chosen(plan: tuple[list[Run], list[Stretch]]) -> None:
    runs, stretches = plan
    chosen = {block for start, stop in stretches for block in range(start, stop)}
    wanted = [action for start, length, action in runs for _ in range(length)]
    for block, action in enumerate(wanted):
        if action is Action.KEEP and block in chosen:
            wanted[block] = Action.COMPARE
    found = list(compare_in(runs, stretches))
    assert [run.action for run in found for _ in range(run.blocks)] == wanted
    assert all(run.blocks > 0 for run in found)
    assert [run.start for run in found] == [sum(run.blocks for run in found[:at]) for at in range(len(found))]
