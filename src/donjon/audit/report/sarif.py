# SPDX-License-Identifier: Apache-2.0
"""The report as SARIF 2.1.0, for code-scanning platforms. Source: OASIS sarif-v2.1.0."""

from __future__ import annotations

import msgspec

from donjon.audit.catalogue import Control, catalogue
from donjon.audit.diff import Change
from donjon.audit.report.report import Finding, Report
from donjon.audit.verdict import Severity, Status

_LEVELS = {
    Severity.CRITICAL: "error",
    Severity.HIGH: "error",
    Severity.MEDIUM: "warning",
    Severity.LOW: "note",
    Severity.INFO: "note",
}
# security-severity, as platforms that sort by CVSS ranges want it
_SCORES = {
    Severity.CRITICAL: "9.5",
    Severity.HIGH: "8.0",
    Severity.MEDIUM: "5.5",
    Severity.LOW: "2.0",
    Severity.INFO: "0.0",
}
_KINDS = {
    Status.PASS: "pass",
    Status.FAIL: "fail",
    Status.NOT_APPLICABLE: "notApplicable",
    Status.UNKNOWN: "open",
    Status.MANUAL: "review",
}
_BASELINE = {
    Change.NEW: "new",
    Change.UNCHANGED: "unchanged",
    Change.CHANGED_EVIDENCE: "updated",
    Change.LOST_VISIBILITY: "updated",
    Change.FIXED: "absent",
}


def to_sarif(report: Report) -> bytes:
    """The report as one SARIF run; waived findings are suppressed with their justification."""
    used = sorted({one.result.control for one in report.findings})
    numbers = {control: number for number, control in enumerate(used)}
    driver = {
        "name": "donjon",
        "version": report.donjon,
        "semanticVersion": report.donjon,
        "rules": [_rule(catalogue().control(one)) for one in used],
    }
    results = [_result(report, one, numbers[one.result.control]) for one in report.findings]
    run = {"tool": {"driver": driver}, "results": results, "columnKind": "utf16CodeUnits"}
    log = {"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0", "runs": [run]}
    return msgspec.json.format(msgspec.json.encode(log), indent=1)


def _rule(control: Control) -> dict[str, object]:
    return {
        "id": control.id,
        "shortDescription": {"text": control.title},
        "fullDescription": {"text": control.rule},
        "help": {"text": control.fix},
        "defaultConfiguration": {"level": _LEVELS[control.severity]},
        "properties": {
            "security-severity": _SCORES[control.severity],
            "tags": [
                "security",
                control.area,
                *(f"{name} {each}" for name, ids in control.frameworks.items() for each in ids),
            ],
        },
    }


def _result(report: Report, finding: Finding, rule: int) -> dict[str, object]:
    result = finding.result
    host = report.host_name(result.host)
    shown: dict[str, object] = {
        "ruleId": result.control,
        "ruleIndex": rule,
        "kind": _KINDS[result.status],
        "level": _LEVELS[result.severity] if result.status is Status.FAIL else "none",
        "message": {"text": result.summary},
        "locations": [{"logicalLocations": [{"fullyQualifiedName": _place(host, result.name), "kind": "resource"}]}],
        "partialFingerprints": {"donjon/v1": result.fingerprint},
        "properties": {"host": host, "subject": result.subject, "evidence": result.evidence},
    }
    if finding.waiver:
        waiver = finding.waiver
        reason = f"{waiver.reason} ({waiver.owner}, until {waiver.expires})"
        shown["suppressions"] = [{"kind": "external", "status": "accepted", "justification": reason}]
    if finding.change in _BASELINE:
        shown["baselineState"] = _BASELINE[finding.change]
    return shown


def _place(host: str, name: str) -> str:
    return f"{host}/{name}" if name else host
