# SPDX-License-Identifier: Apache-2.0
"""Backs up a small disk and dies as `kill -9` does, at a given point: `crash_driver.py REPOSITORY SEED WHERE NUMBER`.

WHERE is "trace" (the points of donjon.trace), "before" or "after" (calls of the store). With number 0 it lives, and
prints how many points there were.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

from donjon import trace
from donjon.repository.repository import Repository
from donjon.repository.stores.local import LocalStore
from donjon.repository.writer import WriteOptions, writing
from donjon.testing.faults import Faults, kill_this_process
from tests.unit.repository.disks import BLOCK, PASSWORD, Disk, random_disk, save_disk, save_point

OPTIONS = WriteOptions(pack_size=6 * BLOCK, workers=1)


class Countdown:
    """Kills the process at the n-th point."""

    def __init__(self, number: int) -> None:
        self.calls = 0
        self._number = number

    def __call__(self, point: str) -> None:
        self.calls += 1
        if self.calls == self._number:
            kill_this_process()


def main(place: str, seed: str, where: str, number: str) -> None:
    """Make the backup, or a part of it."""
    store = LocalStore(Path(place))
    repository = Repository.open(store, PASSWORD)
    counter: Countdown | Faults = Countdown(int(number))
    with ExitStack() as stack:
        if isinstance(counter, Countdown) and where == "trace":
            stack.enter_context(trace.listening(counter))
        else:
            counter = Faults(store, int(number), kill_this_process, after=where == "after")
            repository = Repository(counter, repository.key, repository.config)
        with writing(repository, OPTIONS) as writer:
            _, tree = save_disk(writer, Disk(random_disk(int(seed))))
            save_point(writer, tree)
    print(counter.calls)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
