# SPDX-License-Identifier: Apache-2.0
"""What a rule says of one subject: pass, fail, not applicable, unknown, or that a person must attest it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from msgspec import Struct, field

from donjon.audit.fact import Unseen

T = TypeVar("T")


class Status(enum.Enum):
    """The outcome of a rule for one subject."""

    PASS = "pass"  # noqa: S105 -- not a password
    FAIL = "fail"
    NOT_APPLICABLE = "na"
    UNKNOWN = "unknown"
    MANUAL = "manual"


class Severity(enum.Enum):
    """How bad a failure is."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    INFO = "info"

    @property
    def rank(self) -> int:
        """0 is the worst."""
        return list(Severity).index(self)

    def lower(self, steps: int = 1) -> Severity:
        """So many steps less bad; a rule that only warns fails one step lower."""
        ladder = list(Severity)
        return ladder[min(self.rank + steps, len(ladder) - 1)]


class Verdict(Struct, frozen=True):
    """What a rule says of one subject.

    `subject` is a key that stays the same between audits (UUID, path, address:port), "" for the host itself; `name` is
    what the operator calls it. `severity` None: the control's own; `lower`: steps below that. Evidence never holds a
    secret.
    """

    status: Status
    summary: str
    subject: str = ""
    name: str = ""
    severity: Severity | None = None
    lower: int = 0
    evidence: dict[str, str] = field(default_factory=dict)


def passed(summary: str, subject: str = "", name: str = "", **evidence: object) -> Verdict:
    """The subject is as it should be."""
    return Verdict(Status.PASS, summary, subject, name, evidence=_shown(evidence))


def failed(
    summary: str,
    subject: str = "",
    name: str = "",
    *,
    severity: Severity | None = None,
    lower: int = 0,
    **evidence: object,
) -> Verdict:
    """The subject is not as it should be; `summary` says what is wrong in words an operator understands."""
    return Verdict(Status.FAIL, summary, subject, name, severity, lower, _shown(evidence))


def not_applicable(why: str, subject: str = "", name: str = "") -> Verdict:
    """The control means nothing for the subject."""
    return Verdict(Status.NOT_APPLICABLE, why, subject, name)


def unknown(why: str, subject: str = "", name: str = "") -> Verdict:
    """What is needed to judge the subject could not be seen."""
    return Verdict(Status.UNKNOWN, why, subject, name)


def manual(what: str, subject: str = "", name: str = "") -> Verdict:
    """No program can see it; a person must attest it."""
    return Verdict(Status.MANUAL, what, subject, name)


def each(
    things: Iterable[T],
    judge: Callable[[T], Verdict],
    *,
    subject: Callable[[T], str],
    name: Callable[[T], str] = lambda _: "",
    none: str,
) -> Iterator[Verdict]:
    """A verdict for each thing; one that cannot be seen hides no other. `none` says why there is nothing to judge.

    `subject` and `name` are put into every verdict that has none of its own.
    """
    empty = True
    for thing in things:
        empty = False
        try:
            verdict = judge(thing)
        except Unseen as unseen:
            verdict = unknown(str(unseen))
        key = verdict.subject or subject(thing)
        yield Verdict(
            verdict.status,
            verdict.summary,
            key,
            verdict.name or name(thing),
            verdict.severity,
            verdict.lower,
            verdict.evidence,
        )
    if empty:
        yield not_applicable(none)


def _shown(evidence: dict[str, object]) -> dict[str, str]:
    return {key: _text(value) for key, value in evidence.items()}


def _text(value: object) -> str:
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(sorted(map(str, value)) if isinstance(value, (set, frozenset)) else map(str, value))
    return str(value)
