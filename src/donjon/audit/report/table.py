# SPDX-License-Identifier: Apache-2.0
"""The report as CSV, for spreadsheets; a cell that a spreadsheet would take for a formula is quoted."""

from __future__ import annotations

import csv
import io

from donjon.audit.report.report import Finding, Report

HEADINGS = (
    "control",
    "title",
    "severity",
    "status",
    "host",
    "subject",
    "summary",
    "evidence",
    "attack path",
    "fix class",
    "fix",
    "change",
    "waived until",
    "waiver reason",
    "waiver owner",
    "fingerprint",
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def to_csv(report: Report) -> bytes:
    """The report, a row for each result; UTF-8."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(HEADINGS)
    writer.writerows([_cell(value) for value in _row(report, one)] for one in report.findings)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _row(report: Report, finding: Finding) -> tuple[str, ...]:
    result, control, waiver = finding.result, finding.control, finding.waiver
    return (
        result.control,
        control.title,
        result.severity.value,
        result.status.value,
        report.host_name(result.host),
        result.name,
        result.summary,
        "; ".join(f"{key}={value}" for key, value in result.evidence.items()),
        control.attack_path.value,
        control.fix_class.value,
        control.fix,
        finding.change.value if finding.change else "",
        str(waiver.expires) if waiver else "",
        waiver.reason if waiver else "",
        waiver.owner if waiver else "",
        result.fingerprint,
    )


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text
