# SPDX-License-Identifier: Apache-2.0
"""The rules that judge, and how they are found: one function for each control that is implemented."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date

from msgspec import Struct

from donjon.audit.advisories.data import Advisories
from donjon.audit.facts.host import Host
from donjon.audit.profile import Profile
from donjon.audit.verdict import Verdict


class Context(Struct, frozen=True):
    """What a rule may know besides the facts: profile, today's date (UTC), all hosts of the fleet, advisories."""

    profile: Profile
    today: date
    fleet: tuple[Host, ...] = ()
    advisories: Advisories | None = None


Rule = Callable[[Host, Context], Iterable[Verdict]]

_rules: dict[str, Rule] = {}


def control(number: str) -> Callable[[Rule], Rule]:
    """Mark a function as the rule of a control: a pure function that says at least one verdict.

    Raises:
        ValueError: the control has a rule already.
    """

    def register(rule: Rule) -> Rule:
        if number in _rules:
            raise ValueError(f"two rules for {number}")
        _rules[number] = rule
        return rule

    return register


def registered() -> dict[str, Rule]:
    """Control -> rule, of the modules that are loaded; `donjon.audit.controls` loads them all."""
    return dict(_rules)
