# SPDX-License-Identifier: Apache-2.0
"""Every call to a guest's agent can fail, and every moment be the last: the guest is thawed, and nothing is owed."""

from __future__ import annotations

import pytest

from donjon.hypervisors.agent import AgentError, AgentProblem
from donjon.model.restore_point import Consistency
from donjon.model.vm import Power, Vm
from donjon.quiesce.freeze import FREEZE_DEBT, Freezer, Quiesce, thaw_for_good
from donjon.state.ledger import Ledger
from donjon.testing.agent import FakeAgents, FakeWatchdog
from donjon.testing.faults import Faults
from donjon.trace import listening

WEB = Vm("web", "web", "fakehost", Power.RUNNING, ())
POINTS = ("freeze.owed", "freeze.frozen", "freeze.before-thaw", "freeze.thawed")
CALLS = 4


def make_ledger(host: FakeAgents) -> Ledger:
    return Ledger(":memory:", {FREEZE_DEBT: lambda uri, uuid: thaw_for_good(host, uuid, 5)})


@pytest.mark.parametrize("after", [False, True], ids=["refused", "reply lost"])
@pytest.mark.parametrize("fail_at", range(CALLS + 1))
def test_every_call_can_fail(fail_at: int, after: bool) -> None:
    host = FakeAgents()
    faulty = Faults(host, fail_at, AgentError("cannot", kind=AgentProblem.TIMED_OUT), after=after)
    with make_ledger(host) as ledger:
        freezer = Freezer(faulty, ledger, FakeWatchdog())
        with freezer.frozen([WEB], Quiesce.FILESYSTEM):
            pass
        assert faulty.calls >= (CALLS if fail_at == 0 else fail_at)
        assert ledger.debts() == []
    outcome = freezer.outcome("web")
    assert (outcome.consistency is Consistency.FILESYSTEM) is (outcome.note is None) is (fail_at == 0)
    assert not host.agent("web").frozen


@pytest.mark.parametrize("last", POINTS)
def test_being_stopped_at_any_moment_thaws(last: str) -> None:
    host = FakeAgents()
    reached = []

    def stop(point: str) -> None:
        reached.append(point)
        if point == last:
            raise KeyboardInterrupt("SIGTERM")

    watchdog = FakeWatchdog()
    with make_ledger(host) as ledger:
        freezer = Freezer(host, ledger, watchdog)
        with listening(stop), pytest.raises(KeyboardInterrupt), freezer.frozen([WEB], Quiesce.FILESYSTEM):
            pass
        assert ledger.debts() == []
    assert reached == list(POINTS[: POINTS.index(last) + 1])
    assert not host.agent("web").frozen
    assert watchdog.armed_for == {}
