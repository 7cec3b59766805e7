# SPDX-License-Identifier: Apache-2.0
"""Guests are frozen together for a moment; whatever goes wrong, they are thawed, and nobody claims too much."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from donjon.errors import HostError
from donjon.model.restore_point import Consistency
from donjon.model.vm import Power, Vm
from donjon.quiesce.freeze import FREEZE_DEBT, Freezer, Quiesce, thaw_for_good
from donjon.quiesce.thaw import undo_freeze
from donjon.state.ledger import Ledger
from donjon.state.process import NOBODY
from donjon.testing.agent import FakeAgent, FakeAgents, FakeWatchdog
from donjon.testing.faults import Faults

WEB, DB = (Vm(name, name, "fakehost", Power.RUNNING, ()) for name in ("web", "db"))


class Site:
    """A host with two guests, a ledger and a watchdog."""

    def __init__(self, ledger: Path | str = ":memory:") -> None:
        self.host = FakeAgents()
        self.ledger = Ledger(ledger, {FREEZE_DEBT: lambda uri, uuid: thaw_for_good(self.host, uuid, 0)})
        self.watchdog = FakeWatchdog()
        self.freezer = Freezer(self.host, self.ledger, self.watchdog, deadline_s=0.2, grace_s=0.1)

    @property
    def web(self) -> FakeAgent:
        return self.host.agent("web")

    @property
    def db(self) -> FakeAgent:
        return self.host.agent("db")

    @property
    def frozen(self) -> list[str]:
        return [uuid for uuid, agent in self.host.agents.items() if agent.frozen]

    def owed(self) -> list[object]:
        return [debt.args["uuid"] for debt in self.ledger.debts() if debt.kind == FREEZE_DEBT]

    def freeze(self, inside: Callable[[], object] = lambda: None) -> tuple[Consistency, str]:
        """What came of it for web; db comes along."""
        with self.freezer.frozen([WEB, DB], Quiesce.FILESYSTEM):
            inside()
        outcome = self.freezer.outcome("web")
        return outcome.consistency, outcome.note or ""


@pytest.fixture
def site() -> Site:
    return Site()


def test_guests_stand_still_together_while_the_block_runs(site: Site) -> None:
    with site.freezer.frozen([WEB, DB], Quiesce.FILESYSTEM):
        assert site.frozen == site.owed() == list(site.watchdog.armed_for) == ["web", "db"]
        assert set(site.watchdog.armed_for.values()) == {0.2}
    assert site.frozen == site.owed() == list(site.watchdog.armed_for) == []
    for vm in (WEB, DB):
        outcome = site.freezer.outcome(vm.uuid)
        assert (outcome.consistency, outcome.note) == (Consistency.FILESYSTEM, None)
        assert outcome.frozen_s
    assert site.web.said == ["ping", "status", "freeze", "thaw"]


def test_hooks_of_applications_are_the_operators_word(site: Site) -> None:
    with site.freezer.frozen([WEB], Quiesce.APPLICATION):
        pass
    assert site.freezer.outcome("web").consistency is Consistency.APPLICATION


def test_nothing_is_asked_of_a_guest_that_is_not_to_be_frozen(site: Site) -> None:
    with site.freezer.frozen([WEB], Quiesce.CRASH):
        pass
    assert site.freezer.outcome("web").consistency is Consistency.CRASH
    assert (site.host.agents, site.watchdog.alarms) == ({}, [])


def test_nothing_is_frozen_without_a_watchdog(site: Site) -> None:
    site.watchdog.asleep = True
    reached, note = site.freeze(lambda: site.frozen == [] or pytest.fail("frozen"))
    assert (reached, note) == (Consistency.CRASH, "not frozen: cannot arm the watchdog: it does not answer")
    assert "freeze" not in site.web.said


def absent(site: Site) -> None:
    site.web.present = False


def paused(site: Site) -> None:
    site.host.powers["web"] = Power.PAUSED


def hook_fails(site: Site) -> None:
    site.web.hook_fails = True


def has_nothing_to_freeze(site: Site) -> None:
    site.web.file_systems = 0


def freezes_late(site: Site) -> None:
    site.web.late_by = 2


@pytest.mark.parametrize(
    ("is_wrong", "reason"),
    [
        (absent, "not frozen: .*not connected"),
        (paused, "not frozen: .*does not run"),
        (hook_fails, "not frozen in time: .*hook has failed"),
        (has_nothing_to_freeze, "no file system to freeze"),
        (freezes_late, "not frozen in time: .*not responding"),
    ],
)
def test_a_guest_that_cannot_be_frozen_does_not_keep_others_from_it(
    site: Site, is_wrong: Callable[[Site], None], reason: str
) -> None:
    is_wrong(site)
    # Where an agent comes back after a while it gets the time.
    site.ledger = Ledger(":memory:", {FREEZE_DEBT: lambda uri, uuid: thaw_for_good(site.host, uuid, 5)})
    site.freezer = Freezer(site.host, site.ledger, site.watchdog, 0.2, 0.1)
    with site.freezer.frozen([WEB, DB], Quiesce.FILESYSTEM):
        assert site.frozen == ["db"]
    outcome = site.freezer.outcome("web")
    assert outcome.consistency is Consistency.CRASH
    assert re.search(reason, str(outcome.note))
    assert site.freezer.outcome("db").consistency is Consistency.FILESYSTEM
    assert site.frozen == site.owed() == []
    assert not site.web._busy


def test_an_agent_that_dies_while_its_guest_is_frozen_leaves_a_debt_and_a_note(site: Site) -> None:
    site.web.dies_frozen = True
    reached, note = site.freeze()
    assert reached is Consistency.CRASH
    assert "may still be frozen: cannot undo guest.thaw" in note
    assert (site.frozen, site.owed()) == (["web"], ["web"])
    site.web.present = True
    assert site.ledger.settle() == []
    assert site.frozen == []


def test_a_guest_that_the_watchdog_thawed_was_not_frozen_all_the_time(site: Site) -> None:
    def deadline() -> None:
        site.watchdog.alarms[-1].fired = True
        site.host.thaw("web", 1)

    reached, note = site.freeze(deadline)
    assert (reached, "by the watchdog: the deadline of 0.2 s was over" in note) == (Consistency.CRASH, True)
    assert site.owed() == []


def test_a_guest_that_somebody_thawed_was_not_frozen_all_the_time(site: Site) -> None:
    assert site.freeze(lambda: site.host.thaw("web", 1)) == (Consistency.CRASH, "thawed too early, by somebody else")


def test_a_guest_that_somebody_else_froze_is_left_alone(site: Site) -> None:
    site.web.frozen = True
    assert site.freeze() == (Consistency.CRASH, "not frozen: somebody else has frozen it")
    assert site.frozen == ["web"]


def test_a_guest_that_an_earlier_run_left_frozen_is_thawed_first(site: Site) -> None:
    with pytest.raises(HostError), site.ledger.owing(FREEZE_DEBT, uri="fake:///default", uuid="web"):
        site.web.frozen, site.web.present = True, False
    assert site.ledger.debts()[0].owner == NOBODY
    site.web.present = True
    assert site.freeze() == (Consistency.FILESYSTEM, "")
    assert site.owed() == []


def test_a_host_that_hangs_is_given_up(site: Site) -> None:
    site.web.hangs_at = frozenset({"freeze"})
    reached, note = site.freeze()
    site.web.may_answer.set()
    assert (reached, "did not answer within 0.3 s" in note) == (Consistency.CRASH, True)


def test_an_error_in_the_block_thaws_and_goes_on(site: Site) -> None:
    with pytest.raises(ZeroDivisionError):
        site.freeze(lambda: 1 / 0)
    assert site.frozen == site.owed() == []


def test_the_thaw_of_a_host_out_of_reach_is_tried_again(site: Site) -> None:
    calls = iter([HostError("no libvirtd"), None])

    @contextmanager
    def connect(uri: str) -> Iterator[FakeAgents]:
        if error := next(calls):
            raise error
        yield site.host

    site.web.frozen = True
    undo_freeze(connect, "fake:///default", "web", 5)
    assert site.frozen == []


def test_a_guest_that_does_not_say_that_it_is_thawed_is_an_error(site: Site) -> None:
    absent(site)
    with pytest.raises(HostError, match=r"cannot thaw the guest web: .*not connected") as caught:
        thaw_for_good(site.host, "web", 0)
    assert "donjon settle" in str(caught.value.hint)


def test_a_guest_that_went_off_is_thawed(site: Site) -> None:
    site.web.frozen = True
    site.host.powers["web"] = Power.OFF
    thaw_for_good(site.host, "web", 0)


def test_a_freeze_that_was_still_on_its_way_is_thawed_too(site: Site) -> None:
    after_it_said_thawed = Faults(site.host, 3, lambda: site.host.freeze("web", 1))
    thaw_for_good(after_it_said_thawed, "web", 5)
    assert "freeze" in site.web.said
    assert site.frozen == []
