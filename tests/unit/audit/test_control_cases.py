# SPDX-License-Identifier: Apache-2.0
"""Every control says what its cases expect, and every control has a case for each thing it can say."""

from __future__ import annotations

import pytest

from donjon.audit.catalogue import catalogue
from donjon.audit.controls import rules
from donjon.audit.judge import BROKEN_RULE
from tests.unit.audit.control_cases import Case, all_cases, results_of

WORST_FIRST = ("fail", "unknown", "manual", "pass", "na")
STATUSES = {"pass", "fail", "na", "unknown"}


def cases() -> list[object]:
    return [pytest.param(control, case, id=f"{control}: {case.name}") for control, case in all_cases()]


@pytest.mark.parametrize(("control", "case"), cases())
def test_the_control_says_what_the_case_expects(control: str, case: Case) -> None:
    results = results_of(control, case)
    assert results, "no verdict at all"
    assert not [one.summary for one in results if one.summary.startswith(BROKEN_RULE)]
    about = [one for one in results if case.subject is None or case.subject in {one.subject, one.name}]
    assert about, f"nothing about {case.subject}: {[(one.subject, one.name) for one in results]}"
    worst = min(about, key=lambda one: (WORST_FIRST.index(one.status.value), one.severity.rank))
    assert (worst.status.value, worst.summary) == (case.expect, worst.summary), results
    assert case.severity in {None, worst.severity}
    assert case.says in worst.summary + str(worst.evidence)


@pytest.mark.parametrize("control", [one.id for one in catalogue().controls if one.tier == 1])
def test_every_control_of_the_first_tier_has_a_rule_and_a_case_for_each_status(control: str) -> None:
    assert control in rules()
    assert {case.expect for number, case in all_cases() if number == control} >= STATUSES


def test_a_case_says_where_it_comes_from() -> None:
    origins = {case.origin for _, case in all_cases()}
    assert all(origin == "synthetic" or origin.startswith("recorded: ") for origin in origins)


def test_no_two_cases_of_a_control_have_the_same_name() -> None:
    names = [(control, case.name) for control, case in all_cases()]
    assert len(names) == len(set(names))
