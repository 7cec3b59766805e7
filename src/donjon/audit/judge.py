# SPDX-License-Identifier: Apache-2.0
"""Judges hosts: every rule on every host, and what no rule looks at yet is listed, too."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from datetime import date

from msgspec import Struct, field

from donjon.audit.advisories.data import Advisories
from donjon.audit.catalogue import Control, catalogue
from donjon.audit.control import Context, Rule
from donjon.audit.controls import rules
from donjon.audit.fact import Known, Unseen
from donjon.audit.facts.host import Host
from donjon.audit.profile import Profile
from donjon.audit.verdict import Severity, Status, Verdict, not_applicable, unknown

REPORT_SCHEMA = 1


class Result(Struct, frozen=True):
    """What one control says of one subject on one host.

    `fingerprint` names (control, host, subject) and stays the same between audits; `evidence_digest` changes with the
    evidence.
    """

    control: str
    host: str
    subject: str
    name: str
    status: Status
    severity: Severity
    summary: str
    evidence: dict[str, str]
    fingerprint: str
    evidence_digest: str


class Judgement(Struct, frozen=True):
    """All results of an audit; `not_implemented` are the controls that no rule looks at yet."""

    profile: str
    judged: date
    hosts: dict[str, str]
    results: tuple[Result, ...]
    not_implemented: tuple[str, ...] = ()
    schema: int = field(default=REPORT_SCHEMA)


def judge(
    fleet: Sequence[Host],
    profile: Profile,
    today: date,
    only: Collection[str] = (),
    advisories: Advisories | None = None,
) -> Judgement:
    """Judge all hosts by all rules, or by those of `only` these controls."""
    context = Context(profile, today, tuple(fleet), advisories)
    implemented = rules()
    results = tuple(
        _result(control, host, verdict)
        for host in fleet
        for control in catalogue().controls
        if control.id in implemented and (not only or control.id in only)
        for verdict in _verdicts(control, implemented[control.id], host, context)
    )
    return Judgement(
        profile=profile.name,
        judged=today,
        hosts={host.platform.id: host.platform.name for host in fleet},
        results=results,
        not_implemented=tuple(one.id for one in catalogue().controls if one.id not in implemented),
    )


def _verdicts(control: Control, rule: Rule, host: Host, context: Context) -> Iterator[Verdict]:
    kinds = context.profile.hosts
    if not kinds:
        if not isinstance(host.platform.kinds, Known):
            yield unknown("it could not be seen which hypervisor runs here")
            return
        kinds = host.platform.kinds.value
    if not set(kinds) & set(control.hosts):
        yield not_applicable("not for this kind of host" if kinds else "no hypervisor was found on this host")
        return
    try:
        yield from rule(host, context)
    except Unseen as unseen:
        yield unknown(str(unseen))
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
        yield unknown(f"{BROKEN_RULE} {type(error).__name__}: {error}")


BROKEN_RULE = "donjon's own rule failed, please report it:"


def _result(control: Control, host: Host, verdict: Verdict) -> Result:
    severity = (verdict.severity or control.severity).lower(verdict.lower)
    evidence = "\0".join(f"{key}={value}" for key, value in sorted(verdict.evidence.items()))
    return Result(
        control=control.id,
        host=host.platform.id,
        subject=verdict.subject,
        name=verdict.name or verdict.subject,
        status=verdict.status,
        severity=severity,
        summary=verdict.summary,
        evidence=verdict.evidence,
        fingerprint=_digest(control.id, host.platform.id, verdict.subject),
        evidence_digest=_digest(verdict.summary, evidence),
    )


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
