# SPDX-License-Identifier: Apache-2.0
"""The report of an audit: every result with its waiver and its history, from which all formats are written.

Its JSON is the native format; its schema is in the documentation. Others: one module each beside this one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from donjon import __version__
from donjon.audit.catalogue import KINDS, AttackPath, Control, catalogue
from donjon.audit.diff import Change, compare
from donjon.audit.fact import Known, Unknown
from donjon.audit.facts.host import Host
from donjon.audit.judge import Judgement, Result
from donjon.audit.score import score
from donjon.audit.verdict import Severity, Status
from donjon.audit.waivers import Waiver, WaiverProblem, idle_waivers, waiver_for
from donjon.errors import ConfigError

REPORT_SCHEMA = 1


class AuditedHost(Struct, frozen=True):
    """A host of the report. `kinds` are letters, see `Control`; `taken`: when it was looked at."""

    id: str
    name: str
    kinds: str
    system: str
    taken: datetime | None
    vms_unseen: str | None = None
    """Why no VM of it could be judged, if that is so."""


class Finding(Struct, frozen=True):
    """A result with what surrounds it. `change`: against the baseline, None without one."""

    result: Result
    waiver: Waiver | None = None
    change: Change | None = None

    @property
    def open(self) -> bool:
        """It fails, and nobody answers for it."""
        return self.result.status is Status.FAIL and self.waiver is None

    @property
    def control(self) -> Control:
        """Its control."""
        return catalogue().control(self.result.control)


class Report(Struct, frozen=True):
    """An audit. Scores in percent, None if nothing could be judged; `not_implemented` are controls nobody judged."""

    schema: int
    donjon: str
    profile: str
    judged: date
    hosts: tuple[AuditedHost, ...]
    score: float | None
    score_without_waivers: float | None
    findings: tuple[Finding, ...]
    idle_waivers: tuple[WaiverProblem, ...]
    not_implemented: tuple[str, ...]

    def host_name(self, identity: str) -> str:
        """What the operator calls a host."""
        return next((host.name for host in self.hosts if host.id == identity), identity)

    def failures(self, *, waived: bool = False) -> list[Finding]:
        """What fails, worst first; those that somebody answers for only if asked."""
        failing = (one for one in self.findings if one.result.status is Status.FAIL)
        return sorted((one for one in failing if waived or one.open), key=_badness)

    def worst(self, number: int) -> list[tuple[Finding, int]]:
        """The worst that is open, a finding for each control, and how many more of the same control there are."""
        failures = self.failures()
        counts = Counter(one.result.control for one in failures)
        first = {one.result.control: one for one in reversed(failures)}
        chosen = [one for one in failures if first[one.result.control] is one][:number]
        return [(one, counts[one.result.control] - 1) for one in chosen]

    def without_waived(self, judgement: Judgement) -> Judgement:
        """What was judged, but for what somebody answers for."""
        kept = tuple(one.result for one in self.findings if one.waiver is None)
        return msgspec.structs.replace(judgement, results=kept)

    def count(self, status: Status) -> int:
        """How many results are of this status."""
        return sum(one.result.status is status for one in self.findings)

    def by_attack_path(self) -> Iterator[tuple[AttackPath, list[Finding]]]:
        """What fails and is open, by who gains from it."""
        failures = self.failures()
        for path in AttackPath:
            group = [one for one in failures if one.control.attack_path is path]
            if group:
                yield path, group


def make_report(
    judgement: Judgement,
    fleet: Sequence[Host],
    waivers: Sequence[Waiver] = (),
    baseline: Report | None = None,
) -> Report:
    """The report of what was judged."""
    names = judgement.hosts
    changes = _changes(judgement.results, baseline)
    findings = tuple(
        Finding(
            result,
            waiver_for(result, names[result.host], waivers, judgement.judged),
            changes.get(result.fingerprint),
        )
        for result in judgement.results
    )
    return Report(
        schema=REPORT_SCHEMA,
        donjon=__version__,
        profile=judgement.profile,
        judged=judgement.judged,
        hosts=tuple(map(_audited, fleet)),
        score=score(one.result for one in findings if one.waiver is None),
        score_without_waivers=score(judgement.results),
        findings=findings,
        idle_waivers=idle_waivers(judgement.results, names, waivers, judgement.judged),
        not_implemented=judgement.not_implemented,
    )


def load_report(path: Path) -> Report:
    """A report in JSON, by itself or in what `--json` printed.

    Raises:
        ConfigError: it cannot be read, is none, or a newer donjon wrote it.
    """
    try:
        report = _decode(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read report {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"cannot read report {path}: {error}", hint=_WRITTEN_BY) from error
    if wrong := _what_is_wrong(report):
        raise ConfigError(f"cannot read report {path}: {wrong}", hint="use the donjon that wrote it, or audit again")
    return report


_WRITTEN_BY = "name a file that `donjon audit run --format json` or `--json` wrote"


def _decode(raw: bytes) -> Report:
    parts = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    return msgspec.json.decode(parts.get("report", raw), type=Report)


def _what_is_wrong(report: Report) -> str | None:
    if report.schema > REPORT_SCHEMA:
        return "a newer donjon wrote it"
    strange = {one.result.control for one in report.findings} - {one.id for one in catalogue().controls}
    if strange:
        return f"there is no control {min(strange)}"
    kinds = {kind for host in report.hosts for kind in host.kinds} - set(KINDS)
    return f"there is no kind of host {min(kinds)!r}" if kinds else None


def _changes(results: Sequence[Result], baseline: Report | None) -> dict[str, Change]:
    if baseline is None:
        return {}
    compared = compare([one.result for one in baseline.findings], results)
    return {one.result.fingerprint: one.change for one in compared if one.now is not None}


def _audited(host: Host) -> AuditedHost:
    platform = host.platform
    kinds = platform.kinds.value if isinstance(platform.kinds, Known) else ""
    return AuditedHost(
        id=platform.id,
        name=platform.name,
        kinds=kinds,
        system=platform.release.value.pretty if isinstance(platform.release, Known) else "",
        taken=platform.taken.value if isinstance(platform.taken, Known) else None,
        vms_unseen=host.domains.all.reason if isinstance(host.domains.all, Unknown) and kinds else None,
    )


def _badness(finding: Finding) -> tuple[int, int, str, str, str]:
    paths = list(AttackPath)
    result = finding.result
    return (
        result.severity.rank,
        paths.index(finding.control.attack_path),
        result.control,
        result.host,
        result.name,
    )


def severity_counts(findings: Sequence[Finding]) -> dict[Severity, int]:
    """How many there are of each severity, worst first, none left out."""
    return {severity: sum(one.result.severity is severity for one in findings) for severity in Severity}
