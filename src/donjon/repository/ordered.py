# SPDX-License-Identifier: Apache-2.0
"""Work done by many threads, results taken in order, only so much in memory at once."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, wait
from typing import TypeVar

_MOST_WORKERS = 8

T = TypeVar("T")
R = TypeVar("R")


def worker_count() -> int:
    """How many threads are worth having: one per processor we may use, up to where Python's own lock ends scaling."""
    return min(len(os.sched_getaffinity(0)), _MOST_WORKERS)


def map_ordered(executor: Executor, function: Callable[[T], R], items: Iterable[T], *, ahead: int) -> Iterator[R]:
    """Results of `function` in the order of the items, at most `ahead` of them before they are asked for."""
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(executor.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        # Nothing is at work any more when this is left: what it works on may be closed next.
        # One that could be cancelled never begins; were it waited for, an executor that is shut down would not say so.
        wait([future for future in pending if not future.cancel()])
