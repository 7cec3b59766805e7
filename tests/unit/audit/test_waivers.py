# SPDX-License-Identifier: Apache-2.0
"""Waivers hide nothing, expire by themselves, and a wrong one is an error."""

from __future__ import annotations

from contextlib import suppress
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from donjon.audit.verdict import Status
from donjon.audit.waivers import LONGEST, load_waivers
from donjon.errors import ConfigError
from tests.unit.audit.findings import TODAY, report, result, waiver

ENTRY = """
[[waiver]]
control = "GST-01"
subject = "web*"
host = "*"
reason = "being rebuilt"
owner = "ann"
created = 2026-11-01
expires = 2026-12-01
"""


@pytest.mark.parametrize(
    ("given_waiver", "status", "counts"),
    [
        pytest.param(waiver(), Status.FAIL, True, id="a failure"),
        pytest.param(waiver(), Status.UNKNOWN, True, id="what could not be seen"),
        pytest.param(waiver(), Status.MANUAL, True, id="what a person must say"),
        pytest.param(waiver(), Status.PASS, False, id="what passes needs none"),
        pytest.param(waiver(), Status.NOT_APPLICABLE, False, id="what does not apply needs none"),
        pytest.param(waiver("GST-02"), Status.FAIL, False, id="another control"),
        pytest.param(waiver(subject="db*"), Status.FAIL, False, id="another subject"),
        pytest.param(waiver(subject="0b1c"), Status.FAIL, True, id="the subject's key"),
        pytest.param(waiver(subject="WEB1"), Status.FAIL, False, id="case matters"),
        pytest.param(waiver(host="xen*"), Status.FAIL, False, id="another host"),
        pytest.param(waiver(expires=TODAY), Status.FAIL, True, id="its last day"),
        pytest.param(waiver(expires=date(2026, 11, 22)), Status.FAIL, False, id="the day after"),
        pytest.param(waiver(created=TODAY), Status.FAIL, True, id="its first day"),
        pytest.param(waiver(created=date(2026, 11, 24)), Status.FAIL, False, id="not yet"),
        pytest.param(waiver(evidence="0.0.0.0"), Status.FAIL, True, id="the same evidence"),
        pytest.param(waiver(evidence="10.0.0.1"), Status.FAIL, False, id="the evidence has changed"),
    ],
)
def test_when_a_waiver_counts(given_waiver: object, status: Status, counts: bool) -> None:
    made = report(result(status=status), waivers=(given_waiver,))  # type: ignore[arg-type]
    assert (made.findings[0].waiver is not None) == counts
    assert len(made.findings) == 1, "a waived result stays in the report"


@pytest.mark.parametrize(
    ("given_waiver", "problem"),
    [
        (waiver(), None),
        (waiver(expires=date(2026, 11, 22)), "expired"),
        (waiver(created=date(2026, 11, 24)), "not yet valid"),
        (waiver("GST-02"), "unused: nothing fails that it is for"),
        (waiver(evidence="10.0.0.1"), "void: the evidence has changed"),
    ],
)
def test_a_waiver_that_does_nothing_is_a_finding(given_waiver: object, problem: str | None) -> None:
    made = report(result(), waivers=(given_waiver,))  # type: ignore[arg-type]
    assert [one.problem for one in made.idle_waivers] == ([problem] if problem else [])


def test_a_waived_failure_is_no_open_one_and_both_scores_are_told() -> None:
    made = report(result(), result("ACC-05", Status.PASS), waivers=(waiver(),))
    assert not made.failures()
    assert made.score == 100
    assert made.score_without_waivers == 50


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("GST-01", "GST-99", "there is no control GST-99"),
        ('reason = "being rebuilt"', 'reason = " "', "reason is empty"),
        ('owner = "ann"\n', "", "owner"),
        ("expires = 2026-12-01\n", "", "expires"),
        ("expires = 2026-12-01", 'expires = "soon"', "expires"),
        ("expires = 2026-12-01", "expires = 2026-12-01T10:00:00Z", "expires"),
        ("expires = 2026-12-01", "expires = 2026-10-31", "expires before it was created"),
        ("expires = 2026-12-01", "expires = 2027-11-02", f"more than {LONGEST} days"),
        ("owner", "owners", "owners"),
        ("[[waiver]]", "[[waivers]]", "waivers"),
        ('host = "*"', 'host = "*', "line"),
    ],
)
def test_a_wrong_waiver_is_an_error_and_never_left_out(tmp_path: Path, before: str, after: str, says: str) -> None:
    path = tmp_path / "waivers.toml"
    path.write_text(ENTRY + ENTRY.replace(before, after))
    with pytest.raises(ConfigError, match=says):
        load_waivers(path)


def test_waivers_are_read(tmp_path: Path) -> None:
    path = tmp_path / "waivers.toml"
    path.write_text(ENTRY)
    assert load_waivers(path)[0].owner == "ann"
    path.write_text("")
    assert load_waivers(path) == ()


@given(st.binary(max_size=200))
def test_a_half_written_file_of_waivers_is_an_error_or_valid(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "half.toml"
    path.write_bytes(ENTRY.encode() + tail)
    with suppress(ConfigError):
        assert load_waivers(path)[0].control == "GST-01"
