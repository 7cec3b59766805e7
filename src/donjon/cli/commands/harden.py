# SPDX-License-Identifier: Apache-2.0
"""Hardening: what is planned is shown, what is applied can be undone, and nobody is locked out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from donjon.audit.collect.target import Target
from donjon.audit.judge import judge
from donjon.audit.profile import load_profile
from donjon.audit.report.report import make_report
from donjon.audit.waivers import load_waivers
from donjon.cli.commands.audit import Against
from donjon.cli.commands.audit_hosts import Places, look_at
from donjon.cli.commands.harden_result import PlanShown, PlansOnHost, Reached
from donjon.cli.options import COMMON, Common
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


_PLACE = Place()
_PlanFile = Annotated[Path, Parameter(metavar="PLAN", help="File of `donjon harden plan`.")]


def plan(
    *,
    place: Place = _PLACE,
    against: Against = _AGAINST,
    output: Annotated[Path, Parameter(name=["--output", "-o"], metavar="FILE", help="Takes the plan; must be new.")],
    common: Common = COMMON,
) -> PlanShown:
    """Look at a host, judge it, and plan how what fails is fixed; nothing is changed.

    The plan is a file to be reviewed: every change with its diff, its class, how it is tested and how undone, and
    instructions for what no program should do. What is waived is left alone.

    Examples:
        donjon harden plan -o plan.json

        donjon harden plan --host ssh://root@kvm1 --profile kvm-cluster --control ACC-05 -o plan.json
    """
    if output.exists():
        raise ConfigError(f"cannot write {output}: it exists", hint="name another file, or remove it")
    (host,), _ = look_at(place.places(), (), common)
    profile = load_profile(against.profile)
    waivers = load_waivers(against.waivers) if against.waivers else ()
    judgement = judge((host,), profile, datetime.now(UTC).date(), against.controls())
    unwaived = make_report(judgement, (host,), waivers).without_waived(judgement)
    made = make_plan(unwaived, host, profile, place.runner(), only=against.control)
    save(made, output)
    return PlanShown(made, str(output))


def show(plan: _PlanFile, /, *, common: Common = COMMON) -> PlanShown:
    """Show what a plan will do.

    Examples:
        donjon harden show plan.json
    """
    del common
    return PlanShown(load(plan), None)


def apply(
    plan: _PlanFile,
    /,
    *,
    place: Place = _PLACE,
    confirm: Annotated[bool, Parameter(help="Confirm at once, if the host still answers a new connection.")] = False,
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
    loaded, runner = load(plan), place.runner()
    state = engine.apply(loaded, runner, confirm_after)
    if confirm and state is engine.State.WAITING:
        state = engine.confirm(loaded.id, runner)
    return Reached(loaded.id, state, loaded.name, str(plan), confirm_after)


def confirm(plan: _PlanFile, /, *, place: Place = _PLACE, common: Common = COMMON) -> Reached:
    """Keep what was applied: says, over a new connection, that the host can still be reached.

    Examples:
        donjon harden confirm plan.json --host ssh://root@kvm1
    """
    del common
    loaded = load(plan)
    return Reached(loaded.id, engine.confirm(loaded.id, place.runner()), loaded.name, str(plan), 0)


def rollback(plan: _PlanFile, /, *, place: Place = _PLACE, common: Common = COMMON) -> Reached:
    """Undo what a plan did, at any time later; refused if somebody changed it since.

    Examples:
        donjon harden rollback plan.json --host ssh://root@kvm1
    """
    del common
    loaded = load(plan)
    return Reached(loaded.id, engine.rollback(loaded.id, place.runner()), loaded.name, str(plan), 0)


def pending(*, place: Place = _PLACE, common: Common = COMMON) -> PlansOnHost:
    """List the plans that a host knows of, and how far they have come.

    Examples:
        donjon harden pending --host ssh://root@kvm1
    """
    del common
    return PlansOnHost(tuple(engine.pending(place.runner())))
