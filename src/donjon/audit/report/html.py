# SPDX-License-Identifier: Apache-2.0
"""The report as one HTML page that needs nothing from elsewhere: it filters, prints, and is dark if that is wanted."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from donjon.audit.catalogue import KINDS, catalogue
from donjon.audit.report.report import Finding, Report, severity_counts
from donjon.audit.verdict import Status

WORST = 10
_OTHERS = (
    (Status.UNKNOWN, "Could not be seen"),
    (Status.MANUAL, "Wants a person's word"),
    (Status.PASS, "Passes"),
    (Status.NOT_APPLICABLE, "Does not apply"),
)


def to_html(report: Report) -> bytes:
    """The report as a page; nothing of a host is ever taken for markup."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((files("donjon.audit.report") / "page.html.j2").read_text(encoding="utf-8"))
    failures = report.failures()
    page = template.render(
        report=report,
        kinds=KINDS,
        failures=failures,
        worst=report.worst(WORST),
        paths=list(report.by_attack_path()),
        counts=severity_counts(failures),
        waived=[one for one in report.failures(waived=True) if one.waiver],
        others=[(words, _of(report.findings, status)) for status, words in _OTHERS],
        unknown=report.count(Status.UNKNOWN),
        missing=[catalogue().control(number) for number in report.not_implemented],
    )
    return page.encode("utf-8", "backslashreplace")


def _of(findings: Iterable[Finding], status: Status) -> list[Finding]:
    return [one for one in findings if one.result.status is status]
