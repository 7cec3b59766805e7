# SPDX-License-Identifier: Apache-2.0
"""How far the work has got: a bar with rate and time left on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from donjon.cli.text import duration, safe, size
from donjon.model.progress import NoProgress, Progress

LOG_EVERY_S = 10.0


@contextmanager
def shown_progress(*, quiet: bool) -> Iterator[Progress]:
    """Progress for whoever reads standard error."""
    if quiet:
        yield NoProgress()
    elif sys.stderr.isatty():
        with _bar() as progress:
            yield progress
    else:
        yield LogProgress(sys.stderr)


class LogProgress:
    """A plain line at most every ten seconds."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.begin("", 0)

    def begin(self, what: str, total: int) -> None:
        """Something new."""
        self._what, self._total, self._done = what, total, 0
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
        print(line, file=self._stream, flush=True)


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            done = f"{size(task.completed)} of {size(task.total or 0)}"
            return Text(f"{done}, {size(task.speed)}/s" if task.speed else done)

    class Bar:
        def __init__(self, bars: RichProgress) -> None:
            self._bars = bars
            self._task: TaskID | None = None

        def begin(self, what: str, total: int) -> None:
            if self._task is not None:
                self._bars.remove_task(self._task)
            self._task = self._bars.add_task(safe(what), total=total)

        def advance(self, done: int) -> None:
            if self._task is not None:
                self._bars.advance(self._task, done)

    description = TextColumn("{task.description}", markup=False)
    columns = (description, BarColumn(), TextColumn("{task.percentage:>3.0f} %"), Rate(), TimeRemainingColumn())
    console = Console(file=sys.stderr, markup=False, emoji=False, highlight=False)
    with RichProgress(*columns, console=console, transient=True) as bars:
        yield Bar(bars)
