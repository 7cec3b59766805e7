# SPDX-License-Identifier: Apache-2.0
"""What audits hand back, and how they look on a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from donjon.audit.catalogue import KINDS
from donjon.audit.diff import Change, Changed
from donjon.audit.report.report import Finding, Report, severity_counts
from donjon.audit.verdict import Severity, Status
from donjon.audit.waivers import Waiver
from donjon.cli.page import Page
from donjon.cli.result import Result, describe_failure
from donjon.cli.text import count, moment, safe
from donjon.errors import ConfigError, DonjonError, IncompleteError

FINDINGS, UNSEEN = 20, 21
WORST = 10
WIDTH = 110


@dataclass(frozen=True, slots=True)
class FailOn:
    """When an audit ends with an exit code that says so. `severity` None: never."""

    severity: Severity | None = Severity.HIGH
    only_new: bool = False
    unknown: bool = False

    def exit_code(self, report: Report) -> int:
        """What the program ends with."""
        failures = [one for one in report.failures() if not self.only_new or one.change is Change.NEW]
        if self.severity and any(one.result.severity.rank <= self.severity.rank for one in failures):
            return FINDINGS
        return UNSEEN if self.unknown and _unseen(report) else 0

    def exit_code_of_changes(self, changes: Iterable[Changed]) -> int:
        """What a comparison ends with."""
        changes = list(changes)
        new = [one.result.severity for one in changes if one.change is Change.NEW]
        if self.severity and any(severity.rank <= self.severity.rank for severity in new):
            return FINDINGS
        lost = any(one.change is Change.LOST_VISIBILITY for one in changes)
        return UNSEEN if self.unknown and lost else 0


def parse_fail_on(text: str) -> FailOn:
    """From words such as "high", "new,medium", "high,unknown", "never".

    Raises:
        ConfigError: a word is none of these, or there are two severities.
    """
    words = [word.strip() for word in text.split(",")]
    severities = [word for word in words if word in {one.value for one in Severity} | {"never"}]
    strange = [word for word in words if word not in {*severities, "new", "unknown"}]
    if strange or len(severities) > 1:
        raise ConfigError(
            f"cannot understand --fail-on {text}: {strange[0] if strange else 'two severities'}",
            hint="one of critical, high, medium, low, info, never; with new and unknown beside it: new,high",
        )
    severity = Severity(severities[0]) if severities and severities != ["never"] else None
    if not severities:
        severity = Severity.INFO if "new" in words else None
    return FailOn(severity, "new" in words, "unknown" in words)


def _unseen(report: Report) -> list[Finding]:
    return [one for one in report.findings if one.result.status is Status.UNKNOWN and one.waiver is None]


@dataclass(frozen=True, slots=True)
class NotCollected:
    """A host that could not be looked at."""

    host: str
    error: str
    hint: str | None


def not_collected(host: object, error: DonjonError) -> NotCollected:
    """Why a host could not be looked at."""
    failure = describe_failure(error)
    return NotCollected(safe(str(host)), failure.error, failure.hint)


def show_not_collected(hosts: Iterable[NotCollected], page: Page) -> None:
    """A line for each, and what to do about it."""
    for one in hosts:
        page.line(f"not looked at: {one.host}: {one.error}", bold=True)
        if one.hint:
            page.line(f"  {one.hint}")


@dataclass(frozen=True, slots=True)
class Audited(Result):
    """An audit: the report, the hosts it lacks, the files written.

    `document`: the report in another form, if it is to be printed.
    """

    report: Report
    not_collected: tuple[NotCollected, ...]
    written: tuple[str, ...]
    document: str | None
    verdict: int

    @property
    def exit_code(self) -> int:
        """3 if a host could not be looked at; else 20 for findings, 21 for what could not be seen, as was asked."""
        return IncompleteError.exit_code if self.not_collected else self.verdict

    def show(self, page: Page) -> None:
        """The ten worst, then all that fails by who gains from it, then what is not judged; or the document.

        What is in a file is not said again.
        """
        if self.document is not None:
            page.raw(self.document)
            return
        _show_head(self.report, page)
        if not self.written:
            _show_report(self.report, page)
        show_not_collected(self.not_collected, page)
        for file in self.written:
            page.line(f"written: {file}")


def _show_report(report: Report, page: Page) -> None:
    _show_worst(report, page)
    for path, group in report.by_attack_path():
        page.line()
        page.line(f"{path.value} ({len(group)})", bold=True)
        _show_findings(report, group, page)
    _show_rest(report, page)


def _show_head(report: Report, page: Page) -> None:
    for host in report.hosts:
        kinds = ", ".join(KINDS[kind] for kind in host.kinds) or "no hypervisor found"
        seen = f", looked at {moment(host.taken)}" if host.taken else ""
        page.line(f"{host.name}: {host.system or 'unknown system'}, {kinds}{seen}")
        if host.vms_unseen:
            _paragraph(page, "  no VM was judged: ", host.vms_unseen)
    counts = severity_counts(report.failures())
    told = ", ".join(f"{number} {severity.value}" for severity, number in counts.items() if number) or "nothing fails"
    new = sum(one.change is Change.NEW for one in report.findings)
    told += f", {new} of them new" if any(one.change for one in report.findings) else ""
    waived = sum(one.waiver is not None for one in report.findings)
    page.line(f"{told}; {count(len(_unseen(report)), 'result')} unknown; {waived} waived")
    if report.score is not None and report.score_without_waivers is not None:
        page.line(f"score {report.score:.0f} of 100 ({report.score_without_waivers:.0f} without waivers)")


def _show_worst(report: Report, page: Page) -> None:
    worst = report.worst(WORST)
    if not worst:
        return
    page.line()
    page.line("the worst first" if len(worst) > 1 else "the worst", bold=True)
    for number, (one, more) in enumerate(worst, 1):
        said = _said(report, one) + (f" (and {more} more)" if more else "")
        _paragraph(page, f"{number:2}. {one.result.severity.value:<8} {one.result.control}  ", said)
        _paragraph(page, " " * 13 + "fix: ", one.control.fix)


def _show_findings(report: Report, group: list[Finding], page: Page) -> None:
    for one in group:
        _paragraph(page, f"  {one.result.severity.value:<8} {one.result.control:<8} ", _said(report, one))


def _said(report: Report, one: Finding) -> str:
    where = f"{report.host_name(one.result.host)}: " if len(report.hosts) > 1 else ""
    change = f" [{one.change.value}]" if one.change and one.change is not Change.UNCHANGED else ""
    return f"{where}{one.result.summary}{change}"


def _show_rest(report: Report, page: Page) -> None:
    page.line()
    unseen = _unseen(report)
    if unseen:
        page.line(f"could not be seen ({count(len(unseen), 'result')}): never counted as passed", bold=True)
        for why, controls in _by_reason(unseen).items():
            _paragraph(page, "  ", f"{why}: {', '.join(controls)}")
    _show_waivers(report, page)
    passed, beside = report.count(Status.PASS), report.count(Status.NOT_APPLICABLE)
    page.line(
        f"{count(passed, 'result')} passed, {beside} not applicable, {report.count(Status.MANUAL)} for a person to"
        f" attest; {count(len(report.not_implemented), 'control')} not implemented yet"
    )


def _show_waivers(report: Report, page: Page) -> None:
    """What somebody answers for, and the waivers that do nothing."""
    waived = [(one, one.waiver) for one in report.findings if one.waiver]
    if waived:
        page.line(f"waived ({len(waived)})", bold=True)
    for one, waiver in waived:
        answers = f"{waiver.owner} answers for it until {waiver.expires}: {waiver.reason}"
        _paragraph(
            page, f"  {one.result.severity.value:<8} {one.result.control:<8} ", f"{_said(report, one)} ({answers})"
        )
    for problem in report.idle_waivers:
        waiver = problem.waiver
        page.line(f"waiver of {waiver.owner} for {waiver.control} on {waiver.subject}: {problem.problem}", bold=True)


def _by_reason(findings: list[Finding]) -> dict[str, list[str]]:
    """Why something could not be seen -> the controls that needed it, each once."""
    reasons: dict[str, list[str]] = {}
    for one in findings:
        controls = reasons.setdefault(one.result.summary, [])
        if one.result.control not in controls:
            controls.append(one.result.control)
    return reasons


def _paragraph(page: Page, first: str, text: str) -> None:
    lines = textwrap.wrap(" ".join(text.split()), WIDTH - len(first), break_on_hyphens=False) or [""]
    for number, line in enumerate(lines):
        page.line((first if number == 0 else " " * len(first)) + line)


@dataclass(frozen=True, slots=True)
class AuditDiff(Result):
    """What changed between two audits. `hosts`: id -> name; `waivers`: of the newer report, by fingerprint."""

    before: str
    now: str
    changes: tuple[Changed, ...]
    hosts: dict[str, str]
    waivers: dict[str, Waiver]
    verdict: int

    @property
    def exit_code(self) -> int:
        """As --fail-on says."""
        return self.verdict

    def show(self, page: Page) -> None:
        """A paragraph for each kind of change; what stayed as it was is only counted."""
        for change, group in _groups(self.changes):
            page.line(f"{change.value} ({len(group)})", bold=True)
            for one in group if change is not Change.UNCHANGED else ():
                result = one.result
                waived = f" (waived by {waiver.owner})" if (waiver := self.waivers.get(result.fingerprint)) else ""
                said = f"{self.hosts.get(result.host, result.host)}: {_story(one)}{waived}"
                _paragraph(page, f"  {result.severity.value:<8} {result.control:<8} ", said)
        if not self.changes:
            page.line("nothing fails in either")


def _groups(changes: tuple[Changed, ...]) -> Iterator[tuple[Change, list[Changed]]]:
    for change in Change:
        group = sorted((one for one in changes if one.change is change), key=lambda one: one.result.severity.rank)
        if group:
            yield change, group


def _story(one: Changed) -> str:
    if one.change is Change.LOST_VISIBILITY and one.before:
        return f"was {one.before.status.value}, now: {one.result.summary}"
    return one.result.summary
