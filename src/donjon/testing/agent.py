# SPDX-License-Identifier: Apache-2.0
"""Guests' agents and a watchdog in memory, which remember what was done to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from donjon.errors import HostError
from donjon.hypervisors.agent import AgentError, AgentProblem, Executed, FreezeState
from donjon.model.vm import Power


@dataclass
class FakeAgent:
    """An agent in a guest.

    Attributes:
        file_systems: how many it freezes.
        hook_fails: it freezes nothing, and says so.
        late_by: a freeze times out; so do that many calls after it, and only then the guest is frozen.
        dies_frozen: it freezes, and answers no more.
        hangs_at: commands that it does not even begin with until `may_answer` is set.
        programs: what a program that it runs gives, by argv; others it does not know.
        said: what it was asked, in order.
    """

    present: bool = True
    file_systems: int = 2
    hook_fails: bool = False
    late_by: int = 0
    dies_frozen: bool = False
    frozen: bool = False
    hangs_at: frozenset[str] = frozenset()
    may_answer: Event = field(default_factory=Event)
    programs: dict[tuple[str, ...], Executed] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    _busy: int = 0

    def ask(self, what: str) -> None:
        """Take a command, if it can."""
        self.said.append(what)
        if what in self.hangs_at:
            self.may_answer.wait()
        if not self.present:
            raise AgentError(f"cannot {what}: the guest agent is not connected", kind=AgentProblem.ABSENT)
        if self._busy:
            self._busy -= 1
            self.frozen = not self._busy
            raise self._silent(what)

    def freeze(self) -> int:
        """Unless something is wrong with it."""
        self.ask("freeze")
        if self.frozen or self.hook_fails:
            why = "it is frozen" if self.frozen else "the freeze hook has failed with status 3"
            raise AgentError(f"cannot freeze: {why}", kind=AgentProblem.REFUSED)
        if self.late_by:
            self._busy = self.late_by
            raise self._silent("freeze")
        self.frozen = self.file_systems > 0
        self.present = not self.dies_frozen
        return self.file_systems

    def thaw(self) -> int:
        """What was frozen."""
        self.ask("thaw")
        count = self.file_systems if self.frozen else 0
        self.frozen = False
        return count

    @staticmethod
    def _silent(what: str) -> AgentError:
        return AgentError(f"cannot {what}: the guest agent is not responding", kind=AgentProblem.TIMED_OUT)


class FakeAgents:
    """The agents of a host's guests; a guest that nobody has spoken of has one without fault.

    `longest_s` is the longest that anybody was ready to wait for an answer.
    """

    def __init__(self, uri: str = "fake:///default") -> None:
        self.uri = uri
        self.agents: dict[str, FakeAgent] = {}
        self.powers: dict[str, Power] = {}
        self.longest_s = 0.0

    def agent(self, uuid: str) -> FakeAgent:
        """The one of that guest."""
        return self.agents.setdefault(uuid, FakeAgent())

    def power(self, uuid: str) -> Power:
        """Each runs until a test says otherwise. Raises HostError for a guest that is gone."""
        return self.powers.get(uuid, Power.RUNNING)

    def ping(self, uuid: str, timeout_s: float) -> None:
        """If it answers."""
        self._awake(uuid, timeout_s).ask("ping")

    def freeze(self, uuid: str, timeout_s: float) -> int:
        """At once, or in vain: no time-out is waited for."""
        return self._awake(uuid, timeout_s).freeze()

    def thaw(self, uuid: str, timeout_s: float) -> int:
        """What was frozen."""
        return 0 if self._is_off(uuid) else self._awake(uuid, timeout_s).thaw()

    def freeze_state(self, uuid: str, timeout_s: float) -> FreezeState:
        """What the agent says."""
        if self._is_off(uuid):
            return FreezeState.THAWED
        try:
            agent = self._awake(uuid, timeout_s)
            agent.ask("status")
        except AgentError:
            return FreezeState.UNKNOWN
        return FreezeState.FROZEN if agent.frozen else FreezeState.THAWED

    def execute(self, uuid: str, argv: Sequence[str], *, timeout_s: float, input: bytes | None = None) -> Executed:
        """What is told in advance; `cat` gives its input."""
        agent = self._awake(uuid, timeout_s)
        agent.ask(f"execute {' '.join(argv)}")
        if agent.frozen:
            raise AgentError("cannot execute: the agent is in frozen state", kind=AgentProblem.REFUSED)
        if tuple(argv) == ("cat",):
            return Executed(0, input or b"", b"")
        if tuple(argv) not in agent.programs:
            raise AgentError(f"cannot execute {argv[0]}: no such file", kind=AgentProblem.REFUSED)
        return agent.programs[tuple(argv)]

    def _awake(self, uuid: str, timeout_s: float) -> FakeAgent:
        self.longest_s = max(self.longest_s, timeout_s)
        if self.power(uuid) is not Power.RUNNING:
            raise AgentError(f"cannot ask the agent of {uuid}: the guest does not run", kind=AgentProblem.REFUSED)
        return self.agent(uuid)

    def _is_off(self, uuid: str) -> bool:
        try:
            return self.power(uuid) is Power.OFF
        except HostError:
            return True


@dataclass
class FakeAlarm:
    """An alarm that a test lets fire."""

    fired: bool = False


class FakeWatchdog:
    """A watchdog that remembers what it was told to watch; it does nothing by itself.

    Attributes:
        asleep: it cannot be told anything.
        armed_for: the guests that it looks after at this moment, with the deadline in seconds.
        scratch: the folders that it looks after, with their guest, the socket of the job, and the bytes to keep free.
        alarms: all that it was given, in order.
    """

    def __init__(self, *, asleep: bool = False) -> None:
        self.asleep = asleep
        self.armed_for: dict[str, float] = {}
        self.scratch: dict[Path, tuple[str, Path, int]] = {}
        self.alarms: list[FakeAlarm] = []

    @contextmanager
    def armed(self, uuids: tuple[str, ...], deadline_s: float) -> Iterator[FakeAlarm]:
        """Until the block ends."""
        self.armed_for.update(dict.fromkeys(uuids, deadline_s))
        try:
            yield self._alarm()
        finally:
            for uuid in uuids:
                del self.armed_for[uuid]

    @contextmanager
    def watching_space(self, uuid: str, scratch: Path, socket: Path, least_free: int) -> Iterator[FakeAlarm]:
        """Until the block ends."""
        self.scratch[scratch] = (uuid, socket, least_free)
        try:
            yield self._alarm()
        finally:
            del self.scratch[scratch]

    def _alarm(self) -> FakeAlarm:
        if self.asleep:
            raise HostError("cannot arm the watchdog: it does not answer")
        self.alarms.append(FakeAlarm())
        return self.alarms[-1]
