# SPDX-License-Identifier: Apache-2.0
"""The watchdog does as it is told; when the backup dies without a word, it puts right what that has left."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, cast

import pytest

from donjon.errors import HostError
from donjon.hypervisors.live_hypervisor import LiveHypervisor
from donjon.model.vm import Power
from donjon.quiesce.guard import Guard
from donjon.quiesce.messages import (
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
from donjon.state.process import NOBODY
from donjon.testing.agent import FakeAgents

LONG_S = 600.0
SOCKET = "/scratch/nbd"


class Host(FakeAgents):
    """Guests with backup jobs; as long as one has no space, its guest is paused."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs = {"web": SOCKET}
        self.errors: dict[str, str] = {}
        self.connections = 0
        self.cut = 0
        self.refuses = 0

    @contextmanager
    def connect(self, uri: str) -> Iterator[LiveHypervisor]:
        assert uri == self.uri
        if self.refuses:
            self.refuses -= 1
            raise HostError("cannot connect to libvirt: no such socket")
        self.connections += 1
        yield cast(LiveHypervisor, Line(self, self.connections))

    def end_backup(self, uuid: str, socket: Path, timeout_s: float) -> None:
        if self.jobs.get(uuid) == str(socket):
            del self.jobs[uuid]

    def disk_errors(self, uuid: str) -> dict[str, str]:
        return self.errors

    def resume(self, uuid: str) -> None:
        self.powers[uuid] = Power.RUNNING
        self.errors = {}


class Line:
    """A connection to the host, which is of no use any more once it is cut."""

    def __init__(self, host: Host, number: int) -> None:
        self._host = host
        self._number = number

    def __getattr__(self, name: str) -> Any:
        if self._number <= self._host.cut:
            raise HostError("cannot reach libvirt: client socket is closed")
        return getattr(self._host, name)


class Worker:
    """What a backup says and hears; `settled` is how often its debts were tried."""

    def __init__(self, host: Host, settle: Callable[[], bool] = lambda: True) -> None:
        self.settled = 0
        self._settle = settle
        there, here = os.pipe()
        back, answers = os.pipe()
        self._requests = os.fdopen(here, "wb", buffering=0)
        self._heard = os.fdopen(back, "rb")
        guard = Guard(os.fdopen(answers, "wb"), host.connect, self._settles)
        self.thread = Thread(target=guard.serve, args=(os.fdopen(there, "rb"),), daemon=True)
        self.thread.start()
        self.says(Hello(NOBODY, host.uri))

    def _settles(self) -> bool:
        self.settled += 1
        return self._settle()

    def says(self, *requests: Request) -> None:
        for request in requests:
            self._requests.write(encode(request))

    def hears(self) -> object:
        return parse_answer(self._heard.readline())

    def dies(self) -> None:
        self._requests.close()
        self.ended()

    def ended(self) -> None:
        self.thread.join(20)
        assert not self.thread.is_alive()


@pytest.fixture
def host() -> Host:
    return Host()


def test_it_connects_before_anything_is_frozen(host: Host) -> None:
    worker = Worker(host)
    worker.says(Arm(1, ("web",), LONG_S))
    assert worker.hears() == Armed(1)
    assert host.connections == 1
    worker.says(Disarm(1), GoodBye())
    assert worker.hears() == Disarmed(1)
    worker.ended()
    assert worker.settled == 0
    assert host.agents == {}


def test_it_cannot_be_armed_without_a_connection(host: Host) -> None:
    host.refuses = 1
    worker = Worker(host)
    worker.says(Arm(1, ("web",), LONG_S), Disarm(1))
    assert worker.hears() == Failed("cannot connect to libvirt: no such socket")
    assert worker.hears() == Disarmed(1)
    worker.dies()
    assert worker.settled == 1


def test_guests_are_thawed_at_the_deadline_and_again_if_they_freeze_later(host: Host) -> None:
    worker = Worker(host)
    host.freeze("web", 1)
    host.freeze("db", 1)
    worker.says(Arm(7, ("web", "db"), 0.01))
    assert [worker.hears(), worker.hears()] == [Armed(7), Fired(7)]
    until(lambda: all(host.agent(uuid).said.count("status") == 2 for uuid in ("web", "db")))
    assert not host.agent("web").frozen
    assert not host.agent("db").frozen
    host.freeze("web", 1)
    until(lambda: not host.agent("web").frozen)
    worker.says(Disarm(7), GoodBye())
    assert worker.hears() == Disarmed(7)
    worker.ended()


@pytest.mark.parametrize("last", [b"", b'{"type":"Good'], ids=["silence", "half a word"])
def test_a_backup_that_dies_leaves_nothing_frozen_and_its_debts_are_settled(host: Host, last: bytes) -> None:
    outcomes = iter([False, True])
    worker = Worker(host, lambda: next(outcomes))
    worker.says(Arm(1, ("web",), LONG_S))
    assert worker.hears() == Armed(1)
    host.freeze("web", 1)
    worker._requests.write(last)
    worker.dies()
    assert not host.agent("web").frozen
    assert worker.settled == 2


def test_a_connection_that_broke_meanwhile_is_made_anew(host: Host) -> None:
    worker = Worker(host)
    worker.says(Arm(1, ("web",), LONG_S))
    assert worker.hears() == Armed(1)
    host.freeze("web", 1)
    host.cut, host.refuses = host.connections, 1
    worker.dies()
    assert not host.agent("web").frozen
    assert host.connections == 2


def test_a_backup_is_given_up_before_its_scratch_space_is_full(host: Host, tmp_path: Path) -> None:
    worker = Worker(host)
    worker.says(WatchSpace(3, "web", str(tmp_path), SOCKET, least_free=1 << 62))
    assert [worker.hears(), worker.hears()] == [Armed(3), Fired(3)]
    worker.says(Disarm(3), GoodBye())
    assert worker.hears() == Disarmed(3)
    assert host.jobs == {}
    worker.ended()


def test_a_guest_that_full_scratch_space_has_paused_goes_on(host: Host, tmp_path: Path) -> None:
    worker = Worker(host)
    worker.says(WatchSpace(3, "web", str(tmp_path), SOCKET, least_free=0))
    assert worker.hears() == Armed(3)
    time.sleep(0.1)
    host.errors = {"vda": "no space"}
    host.powers["web"] = Power.PAUSED
    assert worker.hears() == Fired(3)
    worker.says(Disarm(3), GoodBye())
    assert worker.hears() == Disarmed(3)
    assert (host.jobs, host.power("web")) == ({}, Power.RUNNING)
    worker.ended()


def test_a_guest_that_was_paused_before_is_none_of_its_business(host: Host, tmp_path: Path) -> None:
    host.errors = {"vda": "unspecified"}
    host.powers["web"] = Power.PAUSED
    worker = Worker(host)
    worker.says(WatchSpace(3, "web", str(tmp_path), SOCKET, least_free=0))
    assert worker.hears() == Armed(3)
    time.sleep(0.5)
    worker.says(Disarm(3), GoodBye())
    assert worker.hears() == Disarmed(3)
    assert (host.jobs, host.power("web")) == ({"web": SOCKET}, Power.PAUSED)
    worker.ended()


def until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not met():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)
