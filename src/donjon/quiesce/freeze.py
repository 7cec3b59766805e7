# SPDX-License-Identifier: Apache-2.0
"""Freezes guests for the moment of their restore points, and sees to it that they are thawed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from donjon import trace
from donjon.errors import HostError
from donjon.hypervisors.agent import FreezeState, GuestAgent
from donjon.model.restore_point import Consistency
from donjon.model.vm import Vm
from donjon.quiesce.bounded import together
from donjon.quiesce.thaw import ANSWER_S, GRACE_S, THAW_TIMEOUT_S, thaw_for_good
from donjon.quiesce.watchdog import Alarm, Watchdog
from donjon.state.ledger import Debt, Ledger

__all__ = ["DEADLINE_S", "FREEZE_DEBT", "FreezableHost", "Freezer", "Frozen", "Quiesce", "thaw_for_good"]

FREEZE_DEBT = "guest.thaw"
DEADLINE_S = 10.0


class Quiesce(Enum):
    """How a guest is brought to rest for its restore point.

    CRASH: not at all. FILESYSTEM: its file systems are frozen. APPLICATION: the same, with the operator's word that
    hooks in the guest have its applications write down what they hold.
    """

    CRASH = "crash"
    FILESYSTEM = "filesystem"
    APPLICATION = "application"

    @property
    def consistency(self) -> Consistency:
        """What is reached if all goes well."""
        return Consistency[self.name]


@dataclass(frozen=True, slots=True)
class Frozen:
    """What came of freezing a guest; `note` says why it is less than was asked for, or what is still owed.

    `frozen_s` is None where it was not frozen.
    """

    consistency: Consistency
    frozen_s: float | None = None
    note: str | None = None


class FreezableHost(GuestAgent, Protocol):
    """A hypervisor whose guests have agents."""

    @property
    def uri(self) -> str:
        """Its address."""
        ...


@dataclass(slots=True)
class _Guest:
    """A guest on its way through freezing and thawing; `froze` and `thawed` are file systems, or what went wrong.

    Times of the monotonic clock.
    """

    uuid: str
    level: Quiesce
    notes: list[str] = field(default_factory=list)
    debt: Debt | None = None
    asked_at: float = 0.0
    froze: int | HostError = 0
    thawed: int | HostError = 0
    thawed_at: float = 0.0

    @property
    def is_thawed(self) -> bool:
        """Whether freeze and thaw were answered, both: then no freeze can come later."""
        return isinstance(self.froze, int) and isinstance(self.thawed, int)

    def outcome(self) -> Frozen:
        """At the end."""
        reached = Consistency.CRASH if self.notes else self.level.consistency
        frozen_s = self.thawed_at - self.asked_at if isinstance(self.froze, int) and self.froze else None
        return Frozen(reached, frozen_s, "; ".join(self.notes) or None)


class Freezer:
    """Freezes guests of one host, under the eyes of a watchdog."""

    def __init__(
        self,
        host: FreezableHost,
        ledger: Ledger,
        watchdog: Watchdog,
        deadline_s: float = DEADLINE_S,
        grace_s: float = GRACE_S,
    ) -> None:
        """Prepare.

        Args:
            host: whose guests are to be frozen.
            ledger: where thaws are owed.
            watchdog: thaws, whatever happened to us, after the deadline.
            deadline_s: so long may freezing and the block take.
            grace_s: a call that takes so much longer than it may counts as hanging.
        """
        self._host = host
        self._ledger = ledger
        self._watchdog = watchdog
        self._deadline_s = deadline_s
        self._grace_s = grace_s
        self._guests: dict[str, _Guest] = {}

    def outcome(self, uuid: str) -> Frozen:
        """What came of freezing this guest, of those of the last block, which has ended."""
        return self._guests[uuid].outcome()

    @contextmanager
    def frozen(self, vms: Sequence[Vm], level: Quiesce) -> Iterator[None]:
        """Have the guests stand still together while the block runs; it should be as short as can be.

        The block runs also if they cannot be frozen: `outcome` says afterwards what was reached.

        Raises:
            HostError: what is to be done cannot be written down first.
        """
        self._guests = {vm.uuid: _Guest(vm.uuid, level) for vm in vms}
        if level is Quiesce.CRASH:
            yield
            return
        with ExitStack() as held:
            guests = self._able()
            alarm = self._arm(guests, held)
            if alarm is None:
                yield
                return
            for guest in guests:
                held.enter_context(self._owing(guest))
            trace.reached("freeze.owed")
            self._freeze(guests)
            try:
                yield
            finally:
                self._thaw(guests)
                for guest in guests:
                    self._judge(guest, alarm)

    def _able(self) -> list[_Guest]:
        """Those that can be frozen; of the others it is noted why they cannot."""
        looks = together(self._look, self._guests, 2 * ANSWER_S + THAW_TIMEOUT_S + self._grace_s)
        for uuid, problem in looks.items():
            if problem is not None:
                self._guests[uuid].notes.append(f"not frozen: {problem}")
        return [guest for guest in self._guests.values() if not guest.notes]

    def _look(self, uuid: str) -> HostError | None:
        """Why a guest cannot be frozen; one that an earlier run of ours left frozen is thawed first."""
        self._host.ping(uuid, ANSWER_S)
        state = self._host.freeze_state(uuid, ANSWER_S)
        if state is FreezeState.THAWED:
            return None
        if state is FreezeState.UNKNOWN:
            return HostError("its guest agent does not say whether it is frozen already")
        ours = [debt for debt in self._ledger.debts() if debt.kind == FREEZE_DEBT and debt.args["uuid"] == uuid]
        if not ours or any(debt.owner.is_alive() for debt in ours):
            return HostError("somebody else has frozen it")
        thaw_for_good(self._host, uuid, THAW_TIMEOUT_S)
        for debt in ours:
            debt.forgive()
        return None

    def _arm(self, guests: list[_Guest], held: ExitStack) -> Alarm | None:
        """Have them watched until all is thawed and struck off; None if nothing may be frozen."""
        if not guests:
            return None
        try:
            return held.enter_context(self._watchdog.armed(tuple(guest.uuid for guest in guests), self._deadline_s))
        except HostError as error:
            for guest in guests:
                guest.notes.append(f"not frozen: {error}")
            return None

    @contextmanager
    def _owing(self, guest: _Guest) -> Iterator[None]:
        """Owe the thaw of a guest. That it stays owed is noted: an agent that has died must not end the backup."""
        with ExitStack() as owed:
            guest.debt = owed.enter_context(self._ledger.owing(FREEZE_DEBT, uri=self._host.uri, uuid=guest.uuid))
            yield
            try:
                owed.close()
            except HostError as error:
                guest.notes.append(f"may still be frozen: {error}")
            if not guest.is_thawed:
                guest.thawed_at = time.monotonic()

    def _freeze(self, guests: list[_Guest]) -> None:
        asked_at = time.monotonic()
        froze = together(
            lambda uuid: self._host.freeze(uuid, self._deadline_s),
            [guest.uuid for guest in guests],
            self._deadline_s + self._grace_s,
        )
        for guest in guests:
            guest.asked_at, guest.froze = asked_at, froze[guest.uuid]
        trace.reached("freeze.frozen")

    def _thaw(self, guests: list[_Guest]) -> None:
        trace.reached("freeze.before-thaw")
        thawed = together(self._timed_thaw, [guest.uuid for guest in guests], ANSWER_S + self._grace_s)
        for guest in guests:
            result = thawed[guest.uuid]
            if isinstance(result, HostError):
                guest.thawed, guest.thawed_at = result, time.monotonic()
            else:
                guest.thawed, guest.thawed_at = result
        trace.reached("freeze.thawed")

    def _timed_thaw(self, uuid: str) -> tuple[int, float]:
        return self._host.thaw(uuid, ANSWER_S), time.monotonic()

    def _judge(self, guest: _Guest, alarm: Alarm) -> None:
        """Only a guest that our own thaw found frozen was frozen all the time."""
        if isinstance(guest.froze, HostError):
            guest.notes.append(f"not frozen in time: {guest.froze}")
        elif guest.froze == 0:
            guest.notes.append("not frozen: its guest agent found no file system to freeze")
        elif isinstance(guest.thawed, HostError):
            guest.notes.append(f"nobody can say that it was frozen all the time: {guest.thawed}")
        elif alarm.fired:
            guest.notes.append(f"thawed too early, by the watchdog: the deadline of {self._deadline_s:g} s was over")
        elif guest.thawed == 0:
            guest.notes.append("thawed too early, by somebody else")
        if guest.is_thawed and guest.debt is not None:
            guest.debt.forgive()
