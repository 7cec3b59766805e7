# SPDX-License-Identifier: Apache-2.0
"""Makes a plan for one host: what the fixes want, compared with how the host looks now."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from donjon.audit.catalogue import FixClass, catalogue
from donjon.audit.fact import Unseen
from donjon.audit.facts.host import Host
from donjon.audit.judge import Judgement, Result
from donjon.audit.profile import Profile
from donjon.audit.verdict import Status
from donjon.errors import ConfigError, HostError
from donjon.harden import firewall
from donjon.harden.change import Chain, Change, Fix, Want
from donjon.harden.fixes import fixes
from donjon.harden.looks import CannotBeDone, Looks, check, key, look, printed, steps
from donjon.harden.plan import Instruction, Plan, PlannedChange, Step, at_confirm, decode, encode, named
from donjon.harden.runner import Runner

SO_ALREADY = "it is so already; what uses it may have to be restarted"


class _Wish(Struct, frozen=True):
    """A change, and the result that is the reason for it."""

    result: Result
    change: Change

    @property
    def fix_class(self) -> FixClass:
        return self.change.fix_class or catalogue().control(self.result.control).fix_class


def make_plan(
    judgement: Judgement,
    host: Host,
    profile: Profile,
    runner: Runner,
    *,
    only: Collection[str] = (),
    known: Mapping[str, Fix] | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Plan:
    """Plan how what failed on a host is fixed; looks at the host, changes nothing.

    What no program can fix, or not on this host, is in the plan as an instruction. Guarded changes come last.

    Args:
        judgement: of an audit just made.
        host: its facts.
        profile: against which it was judged.
        runner: to the same host.
        only: controls to fix; none: all.
        known: control -> fix; None: donjon's own.
        clock: what time it is.

    Raises:
        HostError: the host cannot be looked at, or another one answers.
    """
    failures = [
        one
        for one in judgement.results
        if one.status is Status.FAIL and one.host == host.platform.id and (not only or one.control in only)
    ]
    wishes, instructions = _wishes(failures, host, profile, fixes() if known is None else known)
    looks = look(runner, (want for wish in wishes for want in wish.change.wants), _previews(wishes))
    if looks.host != host.platform.id:
        raise HostError(f"cannot plan for {host.platform.name}: the host that answers is another one")
    possible: list[_Wish] = []
    for wish in wishes:
        if reason := _hindrance(wish, looks):
            instructions.append(_instruction(wish.result, reason))
        else:
            possible.append(wish)
    done_by = _merged([want for wish in possible for want in wish.change.wants], looks)
    acting = [wish for wish in possible if any(done_by[key(want)] for want in wish.change.wants)]
    instructions += [_instruction(wish.result, SO_ALREADY) for wish in possible if wish not in acting]
    in_order = sorted((step for found in done_by.values() for step in found), key=at_confirm)
    return named(
        Plan(
            id="",
            host=host.platform.id,
            name=host.platform.name,
            made=clock().isoformat(timespec="seconds"),
            changes=tuple(_planned(wish, done_by, in_order, looks) for wish in acting),
            steps=tuple(in_order),
            activations=_each_once(text for wish in acting for text in wish.change.activate),
            tests=_each_once(text for wish in acting for text in wish.change.tests),
            instructions=tuple(instructions),
            kept=firewall.kept_in(_chains(acting), looks.admin) if _chains(acting) else (),
        )
    )


def save(plan: Plan, path: Path) -> None:
    """Write a plan to a new file that only its owner can read.

    Raises:
        ConfigError: it cannot be written, or is there already.
    """
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(encode(plan))
    except OSError as error:
        raise ConfigError(f"cannot write the plan {path}: {error.strerror}") from error


def load(path: Path) -> Plan:
    """Read a plan.

    Raises:
        ConfigError: it cannot be read, or was changed after it was made.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the plan {path}: {error.strerror}") from error
    return decode(content, str(path))


def _wishes(
    failures: Iterable[Result], host: Host, profile: Profile, known: Mapping[str, Fix]
) -> tuple[list[_Wish], list[Instruction]]:
    wishes: list[_Wish] = []
    instructions: list[Instruction] = []
    for result in failures:
        try:
            change = known[result.control](result, host, profile) if result.control in known else None
            reason = ""
        except Unseen as unseen:
            change, reason = None, str(unseen)
        if change:
            wishes.append(_Wish(result, change))
        else:
            instructions.append(_instruction(result, reason))
    return sorted(wishes, key=lambda wish: wish.fix_class is FixClass.GUARDED), instructions


def _hindrance(wish: _Wish, looks: Looks) -> str:
    """Why a wish cannot be fulfilled, or ""."""
    try:
        for want in wish.change.wants:
            check(want, looks)
        _shown(wish, looks)
    except CannotBeDone as error:
        return str(error)
    return ""


def _merged(wants: list[Want], looks: Looks) -> dict[tuple[str, ...], list[Step]]:
    groups: dict[tuple[str, ...], list[Want]] = {}
    for want in wants:
        groups.setdefault(key(want), []).append(want)
    try:
        return {name: steps(tuple(group), looks) for name, group in groups.items()}
    except ValueError as error:
        raise HostError(f"cannot plan: two fixes contradict each other: {error}") from error


def _planned(
    wish: _Wish, done_by: Mapping[tuple[str, ...], list[Step]], in_order: list[Step], looks: Looks
) -> PlannedChange:
    mine = [step for want in wish.change.wants for step in done_by[key(want)]]
    return PlannedChange(
        control=wish.result.control,
        subject=wish.result.subject,
        name=wish.result.name,
        title=wish.change.title,
        fix_class=wish.fix_class,
        steps=tuple(number for number, step in enumerate(in_order, start=1) if step in mine),
        guests=wish.change.guests,
        note=wish.change.note,
        shown=_shown(wish, looks),
    )


def _previews(wishes: Iterable[_Wish]) -> list[str]:
    return [_preview(wish) for wish in wishes if wish.change.preview]


def _preview(wish: _Wish) -> str:
    return f"{{\n{wish.change.preview}\n}} 2>&1"


def _shown(wish: _Wish, looks: Looks) -> str:
    return printed(_preview(wish), looks).decode(errors="replace") if wish.change.preview else ""


def _chains(wishes: Iterable[_Wish]) -> list[Chain]:
    return [want for wish in wishes for want in wish.change.wants if isinstance(want, Chain)]


def _instruction(result: Result, reason: str) -> Instruction:
    text = catalogue().control(result.control).fix
    return Instruction(result.control, result.subject, result.name, result.summary, text, reason)


def _each_once(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))
