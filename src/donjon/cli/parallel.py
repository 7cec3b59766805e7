# SPDX-License-Identifier: Apache-2.0
"""Several pieces of work at a time, each in a thread; a signal to stop ends all of them in order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

from donjon.model.progress import Progress

T = TypeVar("T")
R = TypeVar("R")

_HEARS_S = 0.5
_STOPPING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


class Stop:
    """Asked for once, and noticed by every thread when it next tells how far it has got."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._why: BaseException | None = None

    def ask(self, why: BaseException) -> None:
        """From now on `check` raises."""
        self._why = why
        self._event.set()

    def check(self) -> None:
        """Do nothing unless stopping was asked for. Raises KeyboardInterrupt, so that every `with` cleans up."""
        if self._event.is_set():
            raise KeyboardInterrupt(*(self._why.args if self._why else ()))

    def heeded_by(self, progress: Progress) -> Progress:
        """The same progress, for work that is to stop."""
        return _Heeding(progress, self)


class _Heeding:
    def __init__(self, progress: Progress, stop: Stop) -> None:
        self._progress = progress
        self._stop = stop

    def begin(self, what: str, total: int) -> None:
        self._stop.check()
        self._progress.begin(what, total)

    def advance(self, done: int) -> None:
        self._stop.check()
        self._progress.advance(done)


def run_each(items: Sequence[T], work: Callable[[T, Stop], R], parallel: int) -> list[R]:
    """The results of `work`, at most `parallel` at a time, in the order of the items.

    One at a time is done in the calling thread, which a signal reaches wherever it is. Otherwise what the main thread
    is told by a signal (KeyboardInterrupt) is raised once all workers have stopped and put back what they had done,
    with what they could not put back as its notes; work that has not begun is not begun. So is what no work should
    raise.
    """
    stop = Stop()
    if parallel == 1 or len(items) < 2:
        return [work(item, stop) for item in items]

    failures: list[BaseException] = []

    def begin(item: T) -> R:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)  # for the sake of programs that it starts
        try:
            stop.check()
            return work(item, stop)
        except BaseException as error:
            failures.append(error)
            raise

    with ThreadPoolExecutor(min(parallel, len(items)), "donjon-work") as workers:
        try:
            with _signals_held_back():
                futures = [workers.submit(begin, item) for item in items]
            return [_result(future) for future in futures]
        except BaseException as why:
            stop.ask(why)
            workers.shutdown(wait=True, cancel_futures=True)
            for failure in failures:
                if failure is not why:
                    for note in getattr(failure, "__notes__", ()):
                        why.add_note(note)
            raise


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """A signal in the moment between the start of a worker and its being known would let nobody wait for it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _result(future: Future[R]) -> R:
    """What comes of it; a signal that came in the moment before a wait began is heard at the next."""
    while not wait([future], _HEARS_S).done:
        pass
    return future.result()
