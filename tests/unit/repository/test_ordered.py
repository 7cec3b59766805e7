# SPDX-License-Identifier: Apache-2.0
"""Work goes on in many threads, results come in order, and nothing runs on behind anybody's back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from donjon.errors import HostError
from donjon.repository.ordered import map_ordered
from donjon.repository.writer import WriteOptions
from tests.unit.repository.disks import Disk, alone, new_repository, random_bytes, save_disk

MIB = 1 << 20


def test_results_come_in_the_order_of_the_items_however_long_each_takes() -> None:
    def work(item: int) -> int:
        time.sleep(0.002 * (item % 3))
        return item * item

    with ThreadPoolExecutor(4) as executor:
        assert list(map_ordered(executor, work, range(40), ahead=6)) == [n * n for n in range(40)]


def test_only_so_many_items_are_taken_ahead() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while taken < 40:
            taken += 1
            yield taken

    with ThreadPoolExecutor(4) as executor:
        for number, _ in enumerate(map_ordered(executor, str, items(), ahead=6), 1):
            assert taken <= number + 6


class Slow(Disk):
    """A disk that takes its time, and of which one block cannot be read at all."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.at_work = 0
        self._count = threading.Lock()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        with self._count:
            self.at_work += 1
        time.sleep(0 if offset == 0 else 0.05)
        super().read_into(offset, buffer)
        with self._count:
            self.at_work -= 1
        if offset == 0:
            raise HostError("cannot read the disk")


def test_a_disk_can_be_closed_as_soon_as_its_backup_has_failed() -> None:
    disk = Slow(random_bytes(64 * MIB, 1))
    with pytest.raises(HostError), alone(new_repository(), WriteOptions(workers=4)) as writer:
        try:
            save_disk(writer, disk, block_size=MIB)
        finally:
            assert disk.at_work == 0
            disk.content = b""  # closed: a read would fail now
            reads = len(disk.reads)
            time.sleep(0.1)
            assert len(disk.reads) == reads


def test_results_that_nobody_asks_for_any_more_are_not_waited_for_where_the_executor_is_gone() -> None:
    go_on = threading.Event()
    executor = ThreadPoolExecutor(1)
    results = map_ordered(executor, lambda number: number == 0 or go_on.wait(), range(9), ahead=3)
    assert next(results)
    executor.shutdown(wait=False, cancel_futures=True)
    go_on.set()
    del results  # a generator is closed when nobody holds it any more
