# SPDX-License-Identifier: Apache-2.0
"""The report as OCSF Compliance Findings (class 2003), a JSON object a line, for security data lakes.

Source: schema.ocsf.io 1.5, class compliance_finding.
"""

from __future__ import annotations

from datetime import UTC, datetime, time

import msgspec

from donjon.audit.report.report import Finding, Report
from donjon.audit.verdict import Severity, Status

_SEVERITIES = {Severity.CRITICAL: 5, Severity.HIGH: 4, Severity.MEDIUM: 3, Severity.LOW: 2, Severity.INFO: 1}
_STATUSES = {
    Status.PASS: (1, "Pass"),
    Status.FAIL: (3, "Fail"),
    Status.UNKNOWN: (0, "Unknown"),
    Status.MANUAL: (99, "Other"),
    Status.NOT_APPLICABLE: (99, "Other"),
}
_NEW, _SUPPRESSED = 1, 3


def to_ocsf(report: Report) -> bytes:
    """The report, an event for each result; a waived finding is suppressed."""
    lines = (msgspec.json.encode(_event(report, one)) for one in report.findings)
    return b"".join(line + b"\n" for line in lines)


def _event(report: Report, finding: Finding) -> dict[str, object]:
    result, control = finding.result, finding.control
    number, word = _STATUSES[result.status]
    at = next((host.taken for host in report.hosts if host.id == result.host), None)
    taken = at or datetime.combine(report.judged, time(), UTC)
    waiver = finding.waiver
    return {
        "metadata": {
            "version": "1.5.0",
            "product": {"name": "donjon", "vendor_name": "donjon", "version": report.donjon},
        },
        "class_uid": 2003,
        "class_name": "Compliance Finding",
        "category_uid": 2,
        "category_name": "Findings",
        "activity_id": 1,
        "activity_name": "Create",
        "type_uid": 200301,
        "type_name": "Compliance Finding: Create",
        "time": int(taken.timestamp() * 1000),
        "severity_id": _SEVERITIES[result.severity],
        "severity": result.severity.value.capitalize() if result.severity is not Severity.INFO else "Informational",
        "status_id": _SUPPRESSED if waiver else _NEW,
        "status": "Suppressed" if waiver else "New",
        "message": result.summary,
        "comment": f"{waiver.reason} ({waiver.owner}, until {waiver.expires})" if waiver else "",
        "finding_info": {
            "uid": result.fingerprint,
            "title": control.title,
            "desc": result.summary,
            "types": [control.area],
        },
        "compliance": {
            "control": result.control,
            "standards": sorted(control.frameworks),
            "requirements": [f"{name} {each}" for name, ids in control.frameworks.items() for each in ids],
            "status": word,
            "status_id": number,
        },
        "resources": [{"uid": result.subject or result.host, "name": result.name or report.host_name(result.host)}],
        "remediation": {"desc": control.fix},
        "unmapped": {"host": report.host_name(result.host), "status": result.status.value, "evidence": result.evidence},
    }
