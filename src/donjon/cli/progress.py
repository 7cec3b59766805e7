# SPDX-License-Identifier: Apache-2.0
"""How far the work has got: bars with rate and time left on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, TextIO

from donjon.cli.text import duration, safe, size
from donjon.model.progress import NoProgress, Progress

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

LOG_EVERY_S = 10.0

Bars = Callable[[str], AbstractContextManager[Progress]]
"""From whose progress it is (a VM's name, or nothing) to where it is shown for as long as the block lasts."""


@contextmanager
def shown_progress(*, quiet: bool) -> Iterator[Progress]:
    """Progress of one thing, for whoever reads standard error."""
    with shown_bars(quiet=quiet) as bars, bars("") as progress:
        yield progress


@contextmanager
def shown_bars(*, quiet: bool) -> Iterator[Bars]:
    """Progress of several things at a time; each may be told by a thread of its own."""
    if quiet:
        yield lambda _: nullcontext(NoProgress())
    elif sys.stderr.isatty():
        with _rich_bars() as bars:
            yield bars
    else:
        yield lambda whose: nullcontext(LogProgress(sys.stderr, whose))


class LogProgress:
    """A plain line at most every ten seconds."""

    def __init__(self, stream: TextIO, whose: str = "") -> None:
        self._stream = stream
        self._whose = whose
        self.begin("", 0)

    def begin(self, what: str, total: int) -> None:
        """Something new."""
        self._what, self._total, self._done = _title(self._whose, what), total, 0
        self._begun_s = self._said_s = time.monotonic()

    def advance(self, done: int) -> None:
        """Some more of it."""
        self._done += done
        now_s = time.monotonic()
        if now_s - self._said_s >= LOG_EVERY_S:
            self._said_s = now_s
            self._say(self._done / (now_s - self._begun_s))

    def _say(self, rate: float) -> None:
        percent = 100 * self._done // max(self._total, 1)
        left = duration((self._total - self._done) / rate) if rate else "unknown time"
        line = f"{safe(self._what)}: {percent} % of {size(self._total)}, {size(rate)}/s, {left} left"
        self._stream.write(f"{line}\n")  # at once, so that two of them do not share a line
        self._stream.flush()


class _Bar:
    def __init__(self, shown: RichProgress, whose: str) -> None:
        self._shown = shown
        self._whose = whose
        self._task: TaskID | None = None

    def begin(self, what: str, total: int) -> None:
        self.end()
        self._task = self._shown.add_task(safe(_title(self._whose, what)), total=total)

    def advance(self, done: int) -> None:
        if self._task is not None:
            self._shown.advance(self._task, done)

    def end(self) -> None:
        if self._task is not None:
            self._shown.remove_task(self._task)
            self._task = None


@contextmanager
def _rich_bars() -> Iterator[Bars]:
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            done = f"{size(task.completed)} of {size(task.total or 0)}"
            return Text(f"{done}, {size(task.speed)}/s" if task.speed else done)

    @contextmanager
    def bar(whose: str) -> Iterator[Progress]:
        made = _Bar(shown, whose)
        try:
            yield made
        finally:
            made.end()

    description = TextColumn("{task.description}", markup=False)
    columns = (description, BarColumn(), TextColumn("{task.percentage:>3.0f} %"), Rate(), TimeRemainingColumn())
    console = Console(file=sys.stderr, markup=False, emoji=False, highlight=False)
    with RichProgress(*columns, console=console, transient=True) as shown:
        yield bar


def _title(whose: str, what: str) -> str:
    return f"{whose} {what}" if whose else what
