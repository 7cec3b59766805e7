# SPDX-License-Identifier: Apache-2.0
"""Hardening: what is planned is shown, what is applied can be undone, and nobody is locked out."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from donjon.audit.collect.target import Target
from donjon.audit.report.report import make_report
from donjon.audit.verdict import Status
from donjon.cli.commands.audit_against import Against
from donjon.cli.commands.audit_beside import Beside
from donjon.cli.commands.audit_hosts import Places, look_at
from donjon.cli.commands.harden_result import PlanShown, PlansOnHost, Reached
from donjon.cli.options import COMMON, Common, Given
from donjon.cli.output import check_new
from donjon.cli.session import Session
from donjon.errors import ConfigError
from donjon.harden import apply as engine
from donjon.harden.planning import load, make_plan, save
from donjon.harden.runner import HostRunner, Runner

CONFIRM_AFTER_S = 120
_AGAINST = Against()


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which host, and how it is reached."""

    host: Annotated[str | None, Parameter(metavar="ssh://USER@HOST")] = None
    """The host, reached through ssh (else this machine)."""

    sudo: bool = False
    """Become root there with `sudo -n`."""

    legacy: bool = False
    """Also allow the ssh algorithms of hosts as old as Oracle VM 3."""

    def runner(self) -> Runner:
        """What runs scripts there. Raises ConfigError."""
        targets = self.places().targets()
        return HostRunner(targets[0] if targets else Target(sudo=self.sudo))

    def places(self) -> Places:
        """The same, to look at it."""
        return Places(host=(self.host,) if self.host else (), sudo=self.sudo, legacy=self.legacy)

    def next(self, verb: str, plan: Path) -> str:
        """The command that goes on with a plan there."""
        host = ["--host", self.host] if self.host else []
        ways = [way for way, chosen in (("--sudo", self.sudo), ("--legacy", self.legacy)) if chosen]
        return shlex.join(["donjon", "harden", verb, str(plan), *host, *ways])


_PLACE = Place()
_PlanFile = Annotated[Path, Parameter(metavar="PLAN", help="File of `donjon harden plan`.")]


def plan(
    *,
    place: Place = _PLACE,
    against: Against = _AGAINST,
    output: Annotated[Path, Parameter(name=["--output", "-o"], metavar="FILE", help="Takes the plan; must be new.")],
    common: Common = COMMON,
    program: Given,
) -> PlanShown:
    """Look at a host, judge it, and plan how what fails is fixed; nothing is changed.

    The plan is a file to be reviewed: every change with its diff, its class, how it is tested and how undone, and
    instructions for what no program should do. What is waived is left alone.

    Examples:
        donjon harden plan -o plan.json

        donjon harden plan --host ssh://root@kvm1 --profile kvm-cluster --control ACC-05 -o plan.json
    """
    check_new(output)
    criteria = against.load()
    session = Session(common, program)
    (host,), _ = look_at(place.places(), (), session)
    judgement = criteria.judge((host,), Beside().known_holes(session))
    unwaived = make_report(judgement, (host,), criteria.waivers).without_waived(judgement)
    made = make_plan(unwaived, host, criteria.profile, place.runner(), only=criteria.controls)
    save(made, output)
    unseen = tuple(dict.fromkeys(one.control for one in unwaived.results if one.status is Status.UNKNOWN))
    return PlanShown(made, str(output), place.next("apply", output) if made.steps else None, unseen)


def show(plan: _PlanFile, /, *, common: Common = COMMON) -> PlanShown:
    """Show what a plan will do.

    Examples:
        donjon harden show plan.json
    """
    del common
    return PlanShown(load(plan), None, None, ())


def apply(
    plan: _PlanFile,
    /,
    *,
    place: Place = _PLACE,
    confirm: Annotated[
        bool, Parameter(help="Confirm at once, if the host still answers a new connection; with --host.")
    ] = False,
    confirm_after: Annotated[
        int, Parameter(metavar="SECONDS", help="Undo guarded changes that are not confirmed by then.")
    ] = CONFIRM_AFTER_S,
    common: Common = COMMON,
) -> Reached:
    """Do what a plan says; refused if the host is not as it was when it was planned.

    If the plan has guarded changes, their undoing is armed on the host before the first of them: without `donjon harden
    confirm` in time, or if this command, the connection or the host dies, all is as it was.

    Examples:
        donjon harden apply plan.json

        donjon harden apply plan.json --host ssh://root@kvm1 --confirm
    """
    del common
    if confirm and not place.host:
        raise ConfigError(
            "cannot confirm at once on this machine: that must come from another process",
            hint="leave out --confirm, and say `donjon harden confirm` afterwards",
        )
    if confirm_after < 1:
        raise ConfigError(f"cannot undo what is not confirmed after {confirm_after} s: say at least 1")
    loaded, runner = load(plan), place.runner()
    state = engine.apply(loaded, runner, confirm_after)
    if confirm and state is engine.State.WAITING:
        state = engine.confirm(loaded.id, runner)
    waits = state is engine.State.WAITING
    return Reached(loaded.id, state, loaded.name, confirm_after, place.next("confirm", plan) if waits else None)


def confirm(plan: _PlanFile, /, *, place: Place = _PLACE, common: Common = COMMON) -> Reached:
    """Keep what was applied: says, over a new connection, that the host can still be reached.

    Examples:
        donjon harden confirm plan.json --host ssh://root@kvm1
    """
    del common
    loaded = load(plan)
    return Reached(loaded.id, engine.confirm(loaded.id, place.runner()), loaded.name, 0, None)


def rollback(plan: _PlanFile, /, *, place: Place = _PLACE, common: Common = COMMON) -> Reached:
    """Undo what a plan did, at any time later; refused if somebody changed it since.

    Examples:
        donjon harden rollback plan.json --host ssh://root@kvm1
    """
    del common
    loaded = load(plan)
    return Reached(loaded.id, engine.rollback(loaded.id, place.runner()), loaded.name, 0, None)


def pending(*, place: Place = _PLACE, common: Common = COMMON) -> PlansOnHost:
    """List the plans that a host knows of, and how far they have come.

    Examples:
        donjon harden pending --host ssh://root@kvm1
    """
    del common
    return PlansOnHost(tuple(engine.pending(place.runner())))
