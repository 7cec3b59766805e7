# SPDX-License-Identifier: Apache-2.0
"""What changed between two audits, and the one number that says how well hosts do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from donjon.audit.diff import compare
from donjon.audit.judge import Result
from donjon.audit.score import score
from donjon.audit.verdict import Severity, Status
from tests.unit.audit.findings import result

FAIL, PASS, UNKNOWN, NA = Status.FAIL, Status.PASS, Status.UNKNOWN, Status.NOT_APPLICABLE


@pytest.mark.parametrize(
    ("before", "now", "change"),
    [
        (None, FAIL, "new"),
        (PASS, FAIL, "new"),
        (UNKNOWN, FAIL, "new"),
        (FAIL, PASS, "fixed"),
        (FAIL, NA, "fixed"),
        (FAIL, FAIL, "unchanged"),
        (PASS, UNKNOWN, "lost visibility"),
        (FAIL, UNKNOWN, "lost visibility"),
        (FAIL, None, "gone"),
        (PASS, None, None),
        (UNKNOWN, UNKNOWN, None),
        (PASS, PASS, None),
        (None, UNKNOWN, None),
    ],
)
def test_what_changed(before: Status | None, now: Status | None, change: str | None) -> None:
    old = [result(status=before)] if before else []
    new = [result(status=now)] if now else []
    assert [one.change.value for one in compare(old, new)] == ([change] if change else [])


def test_other_evidence_of_the_same_failure_is_told() -> None:
    changed = compare([result(evidence="0.0.0.0")], [result(evidence="10.0.0.1")])
    assert [one.change.value for one in changed] == ["changed evidence"]


def test_of_results_with_the_same_subject_the_worst_counts() -> None:
    assert [one.change.value for one in compare([result(status=PASS), result()], [result(status=PASS)])] == ["fixed"]


results = st.lists(
    st.builds(
        result,
        st.sampled_from(["GST-01", "GST-02", "ACC-05"]),
        st.sampled_from(Status),
        subject=st.sampled_from("abc"),
        severity=st.sampled_from(Severity),
    )
)


@given(results, st.sampled_from([UNKNOWN, NA]), st.sampled_from(["GST-01", "STO-01"]))
def test_what_cannot_be_seen_or_does_not_apply_never_raises_the_score(
    some: list[Result], status: Status, control: str
) -> None:
    before, after = score(some), score([*some, result(control, status, subject="new")])
    assert after is None or before is None or after <= before
    assert before is not None or not after


@given(results)
def test_the_score_is_full_only_if_all_that_applies_passes(some: list[Result]) -> None:
    weighty = [one for one in some if one.status is not NA and one.severity is not Severity.INFO]
    if score(some) == 100:
        assert all(one.status is PASS for one in weighty)


def test_severe_failures_weigh_more() -> None:
    passing = result("ACC-05", PASS)
    critical = score([passing, result(severity=Severity.CRITICAL)])
    low = score([passing, result(severity=Severity.LOW)])
    assert critical is not None
    assert low is not None
    assert critical < low
