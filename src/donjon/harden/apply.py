# SPDX-License-Identifier: Apache-2.0
"""Plans are applied, confirmed and rolled back; what is done on the host, its own program does (target.sh)."""

from __future__ import annotations

import enum
import re

from msgspec import Struct

from donjon.errors import HostError, RefusedError
from donjon.harden.compile import apply_script, call_script, list_script
from donjon.harden.plan import Plan
from donjon.harden.runner import Output, Runner

CONFIRM_AFTER_S = 120
APPLY_S = 900.0
CALL_S = 300.0
_ID = re.compile(r"[0-9a-f]{24}")
_REFUSED, _UNDONE, _NOT_UNDONE, _DECIDED = 10, 11, 12, 13


class State(enum.Enum):
    """How far a plan has come on its host."""

    APPLYING = "applying"
    WAITING = "waiting"
    """Applied; undone if it is not confirmed in time."""
    CONFIRMING = "confirming"
    CONFIRMED = "confirmed"
    UNDOING = "undoing"
    REVERTED = "reverted"
    NOT_UNDONE = "revert-failed"
    """Part of it could not be undone; what was before is in the journal on the host."""


class OnHost(Struct, frozen=True):
    """A plan that a host knows of."""

    plan: str
    state: State


def apply(plan: Plan, runner: Runner, confirm_after: int = CONFIRM_AFTER_S) -> State:
    """Do on its host what a plan says, or nothing of it.

    The undo is armed on the host before the first change: if we, the connection or the host die, all is as it was.
    Gives WAITING if the plan has guarded changes: then `confirm` must come within `confirm_after` seconds, or all of
    it is undone. Else CONFIRMED. A plan that is confirmed already stays so.

    Raises:
        RefusedError: the host is not as it was when this was planned, or another plan waits; nothing was changed.
        HostError: the host cannot be reached; or something failed, says what, and whether all was undone.
    """
    if not plan.steps:
        raise RefusedError("cannot apply the plan: there is nothing to do in it")
    output = runner.run(apply_script(plan, confirm_after), timeout_s=APPLY_S)
    return _state(output, "apply the plan", "make a new plan")


def confirm(plan_id: str, runner: Runner) -> State:
    """Say that the host can still be reached: over a new connection, which is what proves it. Gives CONFIRMED.

    Raises:
        RefusedError: this connection is the one that applied the plan; or it is too late, and all was undone.
        HostError: the host cannot be reached; or what makes it permanent failed, and all was undone.
    """
    output = runner.fresh().run(call_script(_checked(plan_id), "confirm"), timeout_s=CALL_S)
    return _state(output, "confirm the plan", "see `donjon harden pending`")


def rollback(plan_id: str, runner: Runner) -> State:
    """Undo all that a plan did, be it confirmed or not; can be repeated when it was cut short. Gives REVERTED.

    Raises:
        RefusedError: something was changed since by somebody else; nothing was undone.
        HostError: the host cannot be reached, or part of it cannot be undone; says what.
    """
    output = runner.run(call_script(_checked(plan_id), "rollback"), timeout_s=CALL_S)
    return _state(
        output, "roll back the plan", "undo by hand what is named; the journal on the host has what was before"
    )


def pending(runner: Runner) -> tuple[OnHost, ...]:
    """The plans that a host knows of, whatever became of them. Raises HostError."""
    output = runner.run(list_script(), timeout_s=CALL_S)
    if output.rc != 0:
        raise HostError(f"cannot list the plans of the host: {output.complaint}")
    pairs = (line.split() for line in output.out.decode(errors="replace").splitlines())
    try:
        return tuple(OnHost(plan, State(state)) for plan, state in pairs)
    except ValueError as error:
        raise HostError(f"cannot list the plans of the host: {error}") from error


def _state(output: Output, what: str, hint: str) -> State:
    """How it ended, or why it did not."""
    if output.rc == 0:
        try:
            return State(output.out.decode(errors="replace").strip().rpartition("\n")[2])
        except ValueError as error:
            raise HostError(f"cannot {what}: {error}", hint="see `donjon harden pending`") from error
    message = f"cannot {what}: {output.complaint}"
    if output.rc in (_REFUSED, _DECIDED):
        raise RefusedError(message, hint=hint)
    if output.rc == _NOT_UNDONE:
        raise HostError(message, hint="look at the host now")
    if output.rc == _UNDONE:
        raise HostError(message)
    raise HostError(message, hint="what was begun on the host is undone by itself; see `donjon harden pending`")


def _checked(plan_id: str) -> str:
    if not _ID.fullmatch(plan_id):
        raise RefusedError(f"cannot find plan {plan_id!r}: that is no id of a plan")
    return plan_id
