# SPDX-License-Identifier: Apache-2.0
"""The watchdog as the backup sees it: a process of its own, spoken to through pipes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from threading import Condition, Lock, Thread
from typing import Self

import msgspec

from donjon.errors import HostError
from donjon.host_command import Companion, start_companion
from donjon.quiesce.messages import (
    Answer,
    Arm,
    Armed,
    Disarm,
    Disarmed,
    Failed,
    Fired,
    GoodBye,
    Hello,
    Request,
    WatchSpace,
    encode,
    parse_answer,
)
from donjon.state.process import this_process

# -P: what lies in the current directory is not imported.
COMMAND = (sys.executable, "-P", "-m", "donjon.cli.watchdog")
ANSWER_S = 20.0
"""How long it may take to start, to connect to the hypervisor, and to say so."""
LEAVE_S = 5.0


class WatchdogProcess:
    """Starts with the block and ends with it. What is wrong with it is said when it is to be armed, not before."""

    def __init__(self, uri: str, command: Sequence[str] = COMMAND, answer_s: float = ANSWER_S) -> None:
        """Prepare; it will look after guests at this address."""
        self._uri = uri
        self._command = command
        self._answer_s = answer_s
        self._numbers = count(1)
        self._sending = Lock()
        self._heard = Condition()
        self._answers: set[Answer] = set()
        self._problem: str | None = None
        self._process: Companion | None = None

    def __enter__(self) -> Self:
        try:
            self._process = start_companion(self._command)
        except HostError as error:
            self._problem = str(error)
            return self
        Thread(target=self._listen, args=(self._process,), name="watchdog-listener", daemon=True).start()
        self._say(Hello(this_process(), self._uri))
        return self

    def __exit__(self, *_: object) -> None:
        self._say(GoodBye())
        if self._process is not None:
            self._process.leave(LEAVE_S)

    @property
    def pid(self) -> int | None:
        """Its process id; None if it could not be started."""
        return self._process.pid if self._process else None

    @contextmanager
    def armed(self, uuids: tuple[str, ...], deadline_s: float) -> Iterator[ProcessAlarm]:
        """See Watchdog."""
        number = next(self._numbers)
        with self._watching(Arm(number, uuids, deadline_s), number) as alarm:
            yield alarm

    @contextmanager
    def watching_space(self, uuid: str, scratch: Path, socket: Path, least_free: int) -> Iterator[ProcessAlarm]:
        """See Watchdog."""
        number = next(self._numbers)
        with self._watching(WatchSpace(number, uuid, str(scratch), str(socket), least_free), number) as alarm:
            yield alarm

    def has_heard(self, answer: Answer) -> bool:
        """Whether it has said that."""
        with self._heard:
            return answer in self._answers

    @contextmanager
    def _watching(self, request: Arm | WatchSpace, number: int) -> Iterator[ProcessAlarm]:
        self._say(request)
        try:
            if not self._hears(Armed(number)):
                raise HostError(f"cannot arm the watchdog: {self._problem or 'it does not answer'}")
            yield ProcessAlarm(self, number)
        finally:
            self._say(Disarm(number))
            self._hears(Disarmed(number))

    def _hears(self, answer: Answer) -> bool:
        """Whether it says that in time."""
        with self._heard:
            self._heard.wait_for(lambda: answer in self._answers or self._problem is not None, self._answer_s)
            return answer in self._answers

    def _say(self, request: Request) -> None:
        """A watchdog that is gone hears nothing; that is seen by its silence."""
        if self._process is None:
            return
        with self._sending, suppress(OSError):
            self._process.input.write(encode(request))

    def _listen(self, process: Companion) -> None:
        for line in process.output:
            try:
                answer = parse_answer(line)
            except msgspec.DecodeError:
                break
            if isinstance(answer, Failed):
                self._fails(answer.reason)
            with self._heard:
                self._answers.add(answer)
                self._heard.notify_all()
        self._fails((process.complaint or "it has ended").splitlines()[-1])

    def _fails(self, problem: str) -> None:
        with self._heard:
            self._problem = self._problem or problem
            self._heard.notify_all()


class ProcessAlarm:
    """Something the process looks out for."""

    def __init__(self, watchdog: WatchdogProcess, number: int) -> None:
        self._watchdog = watchdog
        self._fired = Fired(number)

    @property
    def fired(self) -> bool:
        """Whether it has happened."""
        return self._watchdog.has_heard(self._fired)
