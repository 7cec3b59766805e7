# SPDX-License-Identifier: Apache-2.0
"""The report as JUnit XML, for CI systems: a suite for each host, a case for each result."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from donjon.audit.report.report import Finding, Report
from donjon.audit.verdict import Status

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(report: Report) -> bytes:
    """The report: what fails is a failure, what could not be seen an error, what is waived or beside skipped."""
    root = ET.Element("testsuites", name="donjon audit")
    for host in report.hosts:
        findings = [one for one in report.findings if one.result.host == host.id]
        suite = ET.SubElement(root, "testsuite", name=_clean(host.name), tests=str(len(findings)))
        kinds = [_add_case(suite, one) for one in findings]
        for attribute, kind in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            suite.set(attribute, str(kinds.count(kind)))
    ET.indent(root)
    written: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return written


def _add_case(suite: ET.Element, finding: Finding) -> str:
    result = finding.result
    name = f"{finding.control.title}: {result.name}" if result.name else finding.control.title
    case = ET.SubElement(suite, "testcase", classname=result.control, name=_clean(name))
    kind, message = _outcome(finding)
    if kind:
        outcome = ET.SubElement(case, kind, message=_clean(message))
        if kind != "skipped":
            outcome.set("type", result.severity.value)
            outcome.text = _clean("\n".join(f"{key}: {value}" for key, value in result.evidence.items()))
    return kind


def _outcome(finding: Finding) -> tuple[str, str]:
    result = finding.result
    if finding.waiver:
        return "skipped", f"waived until {finding.waiver.expires}: {finding.waiver.reason}"
    match result.status:
        case Status.PASS:
            return "", ""
        case Status.FAIL:
            return "failure", result.summary
        case Status.UNKNOWN:
            return "error", result.summary
        case _:
            return "skipped", result.summary


def _clean(text: str) -> str:
    """Without what XML 1.0 cannot say."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
