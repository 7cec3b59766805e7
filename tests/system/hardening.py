# SPDX-License-Identifier: Apache-2.0
"""What tests of hardening real hosts share: a plan for a change, and what has become of it."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import date

from donjon.audit.catalogue import FixClass
from donjon.audit.judge import Judgement, Result
from donjon.audit.profile import Profile
from donjon.audit.verdict import Severity, Status
from donjon.errors import HostError
from donjon.harden.apply import State, pending
from donjon.harden.change import Chain, Change, Command, Edit
from donjon.harden.plan import Plan
from donjon.harden.planning import make_plan
from donjon.harden.runner import HostRunner
from tests.unit.audit.control_cases import Machine, host_of


def planned(machine_id: str, runner: HostRunner, change: Change) -> Plan:
    """The plan for a change of the host with this id."""
    facts = host_of(Machine(commands={"machine-id": machine_id}))
    result = Result("CFG-01", facts.platform.id, "", "", Status.FAIL, Severity.HIGH, "is bad", {}, "", "")
    judgement = Judgement("case", date(2026, 11, 23), {}, (result,))
    return make_plan(judgement, facts, Profile("case"), runner, known={"CFG-01": lambda *_: change})


def guarded(*wants: Edit | Command | Chain) -> Change:
    """A change that must be confirmed."""
    return Change("guarded", wants, fix_class=FixClass.GUARDED)


def settled(runner: HostRunner, plan: Plan, timeout_s: float = 120) -> State:
    """What became of the plan, seen by somebody who tries to reach the host until he does."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with suppress(HostError):
            (state,) = [one.state for one in pending(runner.fresh()) if one.plan == plan.id]
            if state not in (State.APPLYING, State.WAITING, State.UNDOING):
                return state
        time.sleep(0.3)
    raise AssertionError("the plan is never decided")
