# SPDX-License-Identifier: Apache-2.0
"""Any object, of which one call fails: before it does anything, or after it did everything."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection
from functools import partial
from threading import Lock
from typing import Any


class Faults:
    """Passes calls on to `target` and fails one of them. Thread-safe; fits whatever Protocol the target does.

    Attributes:
        calls: how many were made so far; a run with `fail_at=0` counts those that could fail.
    """

    def __init__(
        self,
        target: object,
        fail_at: int,
        error: BaseException | Callable[[], object],
        *,
        after: bool = False,
        for_good: bool = False,
        only: Collection[str] = (),
    ) -> None:
        """Make the proxy.

        Args:
            target: whose methods are called.
            fail_at: which call fails, from 1.
            error: what that call raises, or what it does first: `kill_this_process`, wait, ...
            after: the call takes effect and then fails: its reply is lost. Otherwise it is refused.
            for_good: the calls that follow are refused, too, as after a crash.
            only: names of the methods that count; all if empty.
        """
        self.calls = 0
        self._target = target
        self._fail_at = fail_at
        self._error = error
        self._after = after
        self._for_good = for_good
        self._only = only
        self._lock = Lock()

    def __getattr__(self, name: str) -> Any:  # so that it fits any Protocol
        found = getattr(self._target, name)
        if not callable(found) or (self._only and name not in self._only):
            return found
        return partial(self._call, found)

    def _call(self, method: Callable[..., object], *args: object, **kwargs: object) -> object:
        with self._lock:
            self.calls += 1
            number = self.calls
        chosen = number == self._fail_at
        if (chosen and not self._after) or (self._for_good and 0 < self._fail_at < number):
            self._fail()
        result = method(*args, **kwargs)
        if chosen and self._after:
            self._fail()
        return result

    def _fail(self) -> None:
        if isinstance(self._error, BaseException):
            raise self._error
        self._error()


def kill_this_process() -> None:
    """End as `kill -9` does: no handler, no `finally`, no buffer flushed."""
    os.kill(os.getpid(), signal.SIGKILL)
