# SPDX-License-Identifier: Apache-2.0
"""Named points in the program where a test can stop, kill or watch it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_listeners: list[Callable[[str], object]] = []


def reached(point: str) -> None:
    """Say that the program is at `point`, "PART.EVENT" as in "store.temp-written"; nobody hears it but a test."""
    for listener in _listeners:
        listener(point)


@contextmanager
def listening(callback: Callable[[str], object]) -> Iterator[None]:
    """Call `callback` with each point reached, in the thread that reaches it; what it raises is raised there."""
    _listeners.append(callback)
    try:
        yield
    finally:
        _listeners.remove(callback)
