# SPDX-License-Identifier: Apache-2.0
"""The watchdog itself: does as the backup says, and when the backup dies, puts right what it left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from threading import Lock, Thread
from typing import IO

import msgspec

from donjon.errors import DonjonError, HostError
from donjon.hypervisors.live_hypervisor import LiveHypervisor
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
    WatchSpace,
    encode,
    parse_request,
)
from donjon.quiesce.watches import DeadlineWatch, SpaceWatch, Watch
from donjon.state.process import Process

Connect = Callable[[str], AbstractContextManager[LiveHypervisor]]
Settle = Callable[[], bool]
"""Undoes what dead processes owe; whether nothing is left to undo."""

SETTLE_S = 180.0
_DYING_S = 20.0
_POLL_S = 0.05
_RETRY_S = 0.2


class Guard:
    """Looks after the guests of a worker."""

    def __init__(self, answers: IO[bytes], connect: Connect, settle: Settle) -> None:
        self._answers = answers
        self._settle = settle
        self._host = KeptConnection(connect)
        self._worker: Process | None = None
        self._watches: dict[int, tuple[Watch, Thread]] = {}
        self._sending = Lock()

    def serve(self, requests: IO[bytes]) -> None:
        """Do as told until the worker says good-bye, or is dead; then put right what it left."""
        for line in requests:
            try:
                request = parse_request(line)
            except msgspec.DecodeError:
                break  # cut short: the worker has died
            match request:
                case Hello(worker, uri):
                    self._worker = worker
                    self._reach(uri)
                case Arm(number, uuids, deadline_s):
                    self._begin(number, DeadlineWatch(self._host.connected, uuids, deadline_s))
                case WatchSpace(number, uuid, scratch, socket, least_free):
                    self._begin(number, SpaceWatch(self._host.connected, uuid, scratch, socket, least_free))
                case Disarm(number):
                    self._end(number)
                case GoodBye():
                    self._host.close()
                    return
        self._put_right()

    def _reach(self, uri: str) -> None:
        try:
            self._host.open(uri)
        except HostError as error:
            self._answer(Failed(str(error)))

    def _begin(self, number: int, watch: Watch) -> None:
        if not self._host.is_open:
            return
        thread = Thread(target=watch.run, args=(lambda: self._answer(Fired(number)),), daemon=True)
        self._watches[number] = (watch, thread)
        thread.start()
        self._answer(Armed(number))

    def _end(self, number: int) -> None:
        """What is being done is done to its end before."""
        if number in self._watches:
            watch, thread = self._watches.pop(number)
            watch.ended.set()
            thread.join()
        self._answer(Disarmed(number))

    def _put_right(self) -> None:
        """Thaw first; the rest is in the ledger, once the worker's debts are those of a dead process."""
        for watch, _ in self._watches.values():
            watch.ended.set()
        for watch, _ in sorted(self._watches.values(), key=lambda each: isinstance(each[0], SpaceWatch)):
            watch.relieve()
        self._host.close()
        given_up = time.monotonic() + _DYING_S
        while self._worker is not None and self._worker.is_alive() and time.monotonic() < given_up:
            time.sleep(_POLL_S)
        given_up = time.monotonic() + SETTLE_S
        while not self._settled() and time.monotonic() < given_up:
            time.sleep(_RETRY_S)

    def _settled(self) -> bool:
        try:
            return self._settle()
        except DonjonError:
            return False

    def _answer(self, answer: Answer) -> None:
        """A worker that has died hears nothing."""
        try:
            with self._sending:
                self._answers.write(encode(answer))
                self._answers.flush()
        except BrokenPipeError:
            return


class KeptConnection:
    """A connection that is open before it is needed, and made anew when it has failed. Thread-safe."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._uri = ""
        self._lock = Lock()
        self._held = ExitStack()
        self._host: LiveHypervisor | None = None
        self.is_open = False

    def open(self, uri: str) -> None:
        """Connect for the first time. Raises HostError."""
        self._uri = uri
        self._host = self._held.enter_context(self._connect(uri))
        self.is_open = True

    def close(self) -> None:
        """Whatever state it is in."""
        try:
            self._held.close()
        except HostError:
            return

    @contextmanager
    def connected(self) -> Iterator[LiveHypervisor]:
        """The hypervisor, for some calls; when one fails, the next time it is connected to anew. Raises HostError."""
        with self._lock:
            host = self._host
            if host is None:
                self.close()
                self._held = ExitStack()
                host = self._host = self._held.enter_context(self._connect(self._uri))
        try:
            yield host
        except HostError:
            with self._lock:
                self._host = None
            raise
