# SPDX-License-Identifier: Apache-2.0
"""The report as OSCAL assessment results, for governance tools. Source: NIST OSCAL 1.1, assessment-results model."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time
from uuid import UUID, uuid5

import msgspec

from donjon.audit.report.report import Finding, Report
from donjon.audit.verdict import Status

_NAMESPACE = UUID("6f5b7d06-0e0e-5c52-9b2c-8f6d2f0c7a11")
_PROPERTIES = "urn:donjon:oscal"
_OSCAL = "1.1.3"


def to_oscal(report: Report) -> bytes:
    """The report: an observation for each result, a finding for each that passes or fails."""
    moment = datetime.combine(report.judged, time(), UTC)
    times = [host.taken for host in report.hosts if host.taken]
    whole = str(uuid5(_NAMESPACE, f"{moment}{[host.id for host in report.hosts]}{report.profile}"))
    at = _stamp(max(times, default=moment))
    judged = [one for one in report.findings if one.result.status in {Status.PASS, Status.FAIL}]
    result: dict[str, object] = {
        "uuid": _identity(whole, "result"),
        "title": f"donjon audit with profile {report.profile}",
        "description": f"Controls judged on {len(report.hosts)} hosts by the facts collected from them.",
        "start": at,
        "reviewed-controls": {"control-selections": [{"include-controls": _reviewed(report)}]},
    }
    # OSCAL wants no empty lists
    result |= {"observations": [_observation(report, one, at) for one in report.findings]} if report.findings else {}
    result |= {"findings": [_finding(report, one) for one in judged]} if judged else {}
    document = {
        "assessment-results": {
            "uuid": whole,
            "metadata": {
                "title": "donjon audit",
                "last-modified": at,
                "version": report.donjon,
                "oscal-version": _OSCAL,
            },
            "import-ap": {"href": f"#{_identity(whole, 'plan')}"},
            "results": [result],
        }
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=1)


def _reviewed(report: Report) -> list[dict[str, str]]:
    return [{"control-id": _token(one)} for one in sorted({one.result.control for one in report.findings})] or [
        {"control-id": "none"}
    ]


def _observation(report: Report, finding: Finding, at: str) -> dict[str, object]:
    result = finding.result
    properties = {
        "status": result.status.value,
        "severity": result.severity.value,
        "host": report.host_name(result.host),
    }
    properties |= {"subject": result.name} if result.name else {}
    properties |= {f"evidence-{_token(key)}": value for key, value in result.evidence.items()}
    if finding.waiver:
        properties |= {"waiver-owner": finding.waiver.owner, "waiver-until": str(finding.waiver.expires)}
        properties |= {"waiver-reason": finding.waiver.reason}
    return {
        "uuid": _identity(_key(finding), "observation"),
        "title": f"{result.control}: {finding.control.title}",
        "description": result.summary or finding.control.title,
        "props": [_property(name, value) for name, value in properties.items() if value.strip()],
        "methods": ["TEST"],
        "collected": at,
    }


def _finding(report: Report, finding: Finding) -> dict[str, object]:
    result = finding.result
    state = "satisfied" if result.status is Status.PASS else "not-satisfied"
    place = " ".join(filter(None, (report.host_name(result.host), result.name)))
    return {
        "uuid": _identity(_key(finding), "finding"),
        "title": f"{result.control} on {place}",
        "description": result.summary or finding.control.title,
        "target": {"type": "objective-id", "target-id": _token(result.control), "status": {"state": state}},
        "related-observations": [{"observation-uuid": _identity(_key(finding), "observation")}],
    }


def _key(finding: Finding) -> str:
    return finding.result.fingerprint + finding.result.evidence_digest


def _property(name: str, value: str) -> dict[str, str]:
    """A property; its value must be one line without blanks around it."""
    return {"name": name, "ns": _PROPERTIES, "value": " ".join(value.split())}


def _identity(*parts: str) -> str:
    return str(uuid5(_NAMESPACE, "\0".join(parts)))


def _token(text: str) -> str:
    """As OSCAL's tokens are: letters, digits, dots, dashes and underscores, not beginning with a digit."""
    token = re.sub(r"[^\w.-]", "-", text, flags=re.ASCII)
    return token if re.match(r"[A-Za-z_]", token) else f"_{token}"


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
