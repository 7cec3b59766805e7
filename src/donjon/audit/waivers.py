# SPDX-License-Identifier: Apache-2.0
"""Waivers: findings that somebody answers for, until a date; they hide nothing and expire by themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec
from msgspec import Struct

from donjon.audit.catalogue import catalogue
from donjon.audit.judge import Result
from donjon.audit.verdict import Status
from donjon.errors import ConfigError

LONGEST = 365
WAIVABLE = (Status.FAIL, Status.UNKNOWN, Status.MANUAL)


class Waiver(Struct, frozen=True, forbid_unknown_fields=True):
    """Somebody answers for findings of a control. `subject` and `host` are patterns with * and ?.

    Valid from `created` to the end of the day `expires`, in UTC. `evidence`: the digest of the evidence it was given
    for; with other evidence it is void.
    """

    control: str
    subject: str
    host: str
    reason: str
    owner: str
    created: date
    expires: date
    evidence: str | None = None

    def valid(self, today: date) -> bool:
        """Whether it counts on that day."""
        return self.created <= today <= self.expires

    def covers(self, result: Result, host_name: str) -> bool:
        """Whether it was given for this, whatever the day."""
        return (
            self.control == result.control
            and any(fnmatchcase(name, self.subject) for name in (result.subject, result.name))
            and any(fnmatchcase(name, self.host) for name in (result.host, host_name))
            and self.evidence in {None, result.evidence_digest}
        )


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    waiver: tuple[Waiver, ...] = ()


def load_waivers(path: Path) -> tuple[Waiver, ...]:
    """The waivers of a TOML file, in tables [[waiver]].

    Raises:
        ConfigError: the file cannot be read, or an entry makes no sense; none is ever left out.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read waivers in {path}: {error.strerror}") from error
    try:
        waivers = msgspec.toml.decode(text, type=_File).waiver
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read waivers in {path}: {error}",
            hint="each [[waiver]] needs control, subject, host, reason, owner, created and expires",
        ) from error
    for number, waiver in enumerate(waivers, 1):
        wrong = _what_is_wrong(waiver)
        if wrong:
            raise ConfigError(f"cannot accept waiver {number} ({waiver.control}) in {path}: {wrong}")
    return waivers


def _what_is_wrong(waiver: Waiver) -> str | None:
    if waiver.control not in {control.id for control in catalogue().controls}:
        return f"there is no control {waiver.control}"
    empty = [name for name in ("subject", "host", "reason", "owner") if not getattr(waiver, name).strip()]
    if empty:
        return f"{empty[0]} is empty; patterns may be *"
    if waiver.expires < waiver.created:
        return "it expires before it was created"
    if (waiver.expires - waiver.created).days > LONGEST:
        return f"it is for more than {LONGEST} days"
    return None


def waiver_for(result: Result, host_name: str, waivers: Iterable[Waiver], today: date) -> Waiver | None:
    """The waiver that counts today for a result, if any; what passes needs none."""
    if result.status not in WAIVABLE:
        return None
    return next((one for one in waivers if one.valid(today) and one.covers(result, host_name)), None)


class WaiverProblem(Struct, frozen=True):
    """A waiver that does nothing any more: a finding of its own. `problem`: expired, unused, void or not yet valid."""

    waiver: Waiver
    problem: str


def idle_waivers(
    results: Sequence[Result], host_names: dict[str, str], waivers: Iterable[Waiver], today: date
) -> tuple[WaiverProblem, ...]:
    """The waivers that do nothing today, and why."""
    return tuple(
        WaiverProblem(waiver, problem)
        for waiver in waivers
        if (problem := _why_idle(waiver, results, host_names, today)) is not None
    )


def _why_idle(waiver: Waiver, results: Sequence[Result], host_names: dict[str, str], today: date) -> str | None:
    if today > waiver.expires:
        return "expired"
    if today < waiver.created:
        return "not yet valid"
    open_results = [one for one in results if one.status in WAIVABLE]
    if any(waiver.covers(one, host_names.get(one.host, "")) for one in open_results):
        return None
    without_evidence = msgspec.structs.replace(waiver, evidence=None)
    if any(without_evidence.covers(one, host_names.get(one.host, "")) for one in open_results):
        return "void: the evidence has changed"
    return "unused: nothing fails that it is for"
