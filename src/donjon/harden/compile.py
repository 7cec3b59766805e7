# SPDX-License-Identifier: Apache-2.0
"""Makes sh of a plan: the program that stays on the host while the plan can be undone, and what is sent to call it."""

from __future__ import annotations

import shlex
from functools import cache
from importlib.resources import files

from donjon.harden import hunks
from donjon.harden.plan import AccessStep, CommandStep, DocumentStep, FileStep, Plan, Step, at_confirm

BASE = "/var/lib/donjon/harden"
"""Folder on the host with the journals of plans, one each, named by id."""

_CALLER = """\
DONJON_CALLER=$PPID
export DONJON_CALLER
umask 077
"""
_INSTALL = """\
(
install <<'{mark}'
{program}
{mark}
exec setsid sh "$JOURNAL/plan.sh" apply {seconds} </dev/null
)
"""
# It goes on to its end even if the connection does not last so long: what it says goes to files.
_CALL = """\
journal=${{DONJON_ROOT-}}{base}/{id}
[ -e "$journal/plan.sh" ] || {{ echo "nothing is known of it here" >&2; exit 10; }}
setsid sh "$journal/plan.sh" {verb} </dev/null >"$journal/.out.$$" 2>"$journal/.err.$$"
rc=$?
cat "$journal/.out.$$"
cat "$journal/.err.$$" >&2
rm -f "$journal/.out.$$" "$journal/.err.$$"
exit $rc
"""
_LIST = """\
for journal in "${DONJON_ROOT-}"/var/lib/donjon/harden/*/; do
    [ ! -e "$journal/status" ] || echo "$(basename "$journal") $(cat "$journal/status")"
done
"""


def apply_script(plan: Plan, confirm_after: int) -> bytes:
    """Sh that puts the plan's program on the host and applies it; undone if not confirmed so many seconds later."""
    program = plan_program(plan)
    mark = "DONJON_PLAN"
    while mark in program:
        mark += "_"
    install = _INSTALL.format(program=program, mark=mark, seconds=confirm_after)
    return "\n".join([_CALLER, *_facts(plan), library(), install]).encode()


def call_script(plan_id: str, verb: str) -> bytes:
    """Sh that calls a program that is on the host already: "confirm" or "rollback"."""
    return (_CALLER + _CALL.format(base=BASE, id=shlex.quote(plan_id), verb=verb)).encode()


def list_script() -> bytes:
    """Sh that prints "ID STATUS" for every plan the host knows of."""
    return _LIST.encode()


def plan_program(plan: Plan) -> str:
    """The program that stays on the host: what target.sh says, with the pieces of this plan."""
    return "\n".join(
        [
            *_facts(plan),
            library(),
            *(_step(number, step) for number, step in enumerate(plan.steps, start=1)),
            *(_piece(f"activate_{number}", text) for number, text in enumerate(plan.activations, start=1)),
            *(_piece(f"test_{number}", text) for number, text in enumerate(plan.tests, start=1)),
            'main "$@"',
        ]
    )


def _facts(plan: Plan) -> list[str]:
    facts = {
        "ID": plan.id,
        "HOST": plan.host,
        "GUARDED": int(plan.guarded),
        "LAST": sum(not at_confirm(step) for step in plan.steps),
        "TOTAL": len(plan.steps),
        "ACTIVATIONS": len(plan.activations),
        "TESTS": len(plan.tests),
    }
    return [f"{name}={shlex.quote(str(value))}" for name, value in facts.items()]


@cache
def library() -> str:
    """What every program on a host has in common."""
    parts = ("target.sh", "target_undo.sh")
    return "\n".join((files("donjon.harden") / part).read_text(encoding="utf-8") for part in parts)


def _step(number: int, step: Step) -> str:
    pieces: dict[str, str] = {}
    arguments: tuple[str, ...]
    match step:
        case FileStep():
            kind, arguments = "file_step", (step.path, step.before, step.after, f"{step.mode:o}")
            pieces = {"content": hunks.shell(step.hunks)}
        case AccessStep():
            kind, arguments = "access_step", (step.path, step.before, f"{step.mode:o}", step.owner)
        case CommandStep():
            kind, arguments = "command_step", (step.before, step.title)
            pieces = {"state": step.state, "do": step.do, "undo": step.undo}
        case DocumentStep():
            kind, arguments = "document_step", (step.before, step.after, step.name)
            put_back = f"FILE=$BEFORE\n{step.write}"
            pieces = {"state": step.read, "do": step.write, "undo": put_back, "content": hunks.shell(step.hunks)}
    return "\n".join(
        [
            f'step_{number}() {{ {kind} "$1" {number} {shlex.join(arguments)}; }}',
            f"title_{number}() {{ say {shlex.quote(step.title)}; }}",
            *(_piece(f"{name}_{number}", text) for name, text in pieces.items()),
        ]
    )


def _piece(name: str, text: str) -> str:
    """A function of its own; the line ends keep a comment in the last line from eating the brace."""
    return f"{name}() {{\n{text}\n}}"
