# SPDX-License-Identifier: Apache-2.0
"""How far a clone has gone from the gold image it was made of: packages, configuration, users, units."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from msgspec import Struct

from donjon.audit.fact import Fact, Unknown, derived, need
from donjon.audit.facts.guests import Guest

WEIGHTS = {"forbidden": 10, "users": 5, "configs": 3, "units": 2, "packages": 1}


class Difference(Struct, frozen=True):
    """Names of what came, went and changed."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.added, *self.removed, *self.changed)


class Drift(Struct, frozen=True):
    """What differs between a gold image and its clone.

    A part that could not be seen on either side is in `unknown` ("packages": why), and its difference is empty.
    `forbidden`: configuration files that differ and must not. `score`: 0 is none; each difference counts by its weight.
    """

    packages: Difference
    configs: Difference
    users: Difference
    units: Difference
    forbidden: tuple[str, ...] = ()
    unknown: dict[str, str] = {}
    score: int = 0


def drift_of(gold: Guest, clone: Guest, forbidden: Iterable[str]) -> Drift:
    """Compare a clone with its gold image; `forbidden` are patterns of paths that must be as they were."""
    unknown: dict[str, str] = {}
    parts = {
        "packages": _difference("packages", _versions(gold), _versions(clone), unknown),
        "configs": _difference("configs", gold.configs, clone.configs, unknown),
        "users": _difference("users", _users(gold), _users(clone), unknown),
        "units": _difference("units", _units(gold), _units(clone), unknown),
    }
    patterns = tuple(forbidden)
    touched = tuple(path for path in parts["configs"].all if any(fnmatchcase(path, one) for one in patterns))
    score = sum(WEIGHTS[name] * len(part.all) for name, part in parts.items()) + WEIGHTS["forbidden"] * len(touched)
    return Drift(**parts, forbidden=touched, unknown=unknown, score=score)


def _versions(guest: Guest) -> Fact[dict[str, str]]:
    return derived(guest.packages.all, lambda found: {name: one.version for name, one in found.items()})


def _users(guest: Guest) -> Fact[dict[str, str]]:
    return derived(guest.accounts, lambda found: {one.name: f"{one.uid} {one.password} {one.shell}" for one in found})


def _units(guest: Guest) -> Fact[dict[str, str]]:
    return derived(guest.units, lambda found: dict.fromkeys(found, ""))


def _difference(
    part: str, gold: Fact[dict[str, str]], clone: Fact[dict[str, str]], unknown: dict[str, str]
) -> Difference:
    for side in (gold, clone):
        if isinstance(side, Unknown):
            unknown[part] = side.reason
            return Difference()
    before, after = need(gold, absent={}), need(clone, absent={})
    return _compared(before, after)


def _compared(before: Mapping[str, str], after: Mapping[str, str]) -> Difference:
    return Difference(
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        changed=tuple(sorted(name for name in before.keys() & after.keys() if before[name] != after[name])),
    )
