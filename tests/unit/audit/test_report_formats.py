# SPDX-License-Identifier: Apache-2.0
"""Every format says the same, and the libraries of each format's own field can read it."""

from __future__ import annotations

import csv
import io
import json
from html.parser import HTMLParser

import msgspec
import pytest

from donjon.audit.report.formats import FORMATS, render
from donjon.audit.report.report import Report
from donjon.audit.verdict import Severity, Status
from tests.unit.audit.findings import report, result, waiver

NASTY = "<script>alert(1)</script> & \"'\x1b[31m\N{RIGHT-TO-LEFT OVERRIDE}"


@pytest.fixture(scope="module")
def made() -> Report:
    before = report(result("STO-01", subject="/a", name="/a"))
    return report(
        result(),
        result("GNW-03", subject="u2", name=NASTY, summary=f"{NASTY} shares a MAC", severity=Severity.CRITICAL),
        result("STO-01", subject="/a", name="/a"),
        result("ACC-05", Status.PASS, subject="", name=""),
        result("HYP-02", Status.NOT_APPLICABLE, subject="", name=""),
        result("LOG-01", Status.UNKNOWN, subject="", name="", summary="cmd/auditctl: timed out"),
        result("BOOT-12", Status.MANUAL, subject="", name=""),
        waivers=(waiver(),),
        baseline=before,
    )


def test_json_is_the_whole_report(made: Report) -> None:
    assert msgspec.json.decode(render(made, "json"), type=Report) == made


def test_sarif_is_sarif(made: Report) -> None:
    from sarif_pydantic import Sarif

    log = Sarif.model_validate_json(render(made, "sarif"))
    assert log.version == "2.1.0"
    (run,) = json.loads(render(made, "sarif"))["runs"]
    by_rule = {one["ruleId"]: one for one in run["results"]}
    assert by_rule["GST-01"]["suppressions"][0]["justification"].startswith("being rebuilt")
    assert (by_rule["STO-01"]["baselineState"], by_rule["GNW-03"]["baselineState"]) == ("unchanged", "new")
    assert {rule: one["kind"] for rule, one in by_rule.items()} == {
        "GST-01": "fail",
        "GNW-03": "fail",
        "STO-01": "fail",
        "ACC-05": "pass",
        "HYP-02": "notApplicable",
        "LOG-01": "open",
        "BOOT-12": "review",
    }
    assert all(run["tool"]["driver"]["rules"][one["ruleIndex"]]["id"] == one["ruleId"] for one in run["results"])


def test_junit_is_junit(made: Report) -> None:
    from junitparser import JUnitXml

    (suite,) = JUnitXml.fromstring(render(made, "junit"))
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (7, 2, 1, 3)


def test_ocsf_is_ocsf(made: Report) -> None:
    from py_ocsf_models.events.findings.compliance_finding import ComplianceFinding

    events = [ComplianceFinding.model_validate_json(line) for line in render(made, "ocsf").splitlines()]
    assert [event.compliance.status_id.name for event in events][:3] == ["Fail", "Fail", "Fail"]
    assert [event.status for event in events][:2] == ["Suppressed", "New"]


def test_oscal_is_oscal(made: Report) -> None:
    from trestle.oscal.assessment_results import Model

    Model.model_validate_json(render(made, "oscal"))
    (results,) = json.loads(render(made, "oscal"))["assessment-results"]["results"]
    assert len(results["observations"]) == 7
    states = [one["target"]["status"]["state"] for one in results["findings"]]
    assert states == ["not-satisfied"] * 3 + ["satisfied"]


def test_a_spreadsheet_takes_no_cell_for_a_formula() -> None:
    made = report(result(name="=cmd|'/C calc'!A0", summary="@SUM(1)", evidence="+1"))
    (_, row) = csv.reader(io.StringIO(render(made, "csv").decode(), newline=""))
    assert not [cell for cell in row if cell.startswith(("=", "+", "-", "@"))]


class _Page(HTMLParser):
    """What a browser would make of a page: its elements and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.addresses: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href"}]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_everything_loads_nothing_and_takes_no_name_for_markup(made: Report) -> None:
    page = _Page()
    page.feed(render(made, "html").decode())
    assert page.elements.count("script") == 1
    assert not page.addresses
    for expected in ("VNC of web1 listens", NASTY, "waived until 2026-12-01", "cmd/auditctl: timed out", "BOOT-02"):
        assert expected in page.text


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_report_of_nothing_is_a_report(format_name: str) -> None:
    assert render(report(), format_name) or format_name == "ocsf"
