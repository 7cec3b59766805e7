# SPDX-License-Identifier: Apache-2.0
"""Reads the JSON of Debian's security tracker.

Source: https://security-tracker.debian.org/tracker/data/json: package -> CVE -> releases -> status, fixed_version,
urgency; a fixed_version of "0" means that the release never had it.
"""

from __future__ import annotations

from datetime import date

import msgspec
from msgspec import Struct, field

from donjon.audit.advisories.data import Feed, Fix

CODENAMES = {
    "stretch": "9",
    "buster": "10",
    "bullseye": "11",
    "bookworm": "12",
    "trixie": "13",
    "forky": "14",
}
_SEVERITIES = {"high": "high", "medium": "medium", "low": "low", "not yet assigned": "medium", "end-of-life": "high"}
_IGNORED = frozenset({"unimportant"})


class _Status(Struct):
    status: str
    fixed_version: str = ""
    urgency: str = ""


class _Issue(Struct):
    releases: dict[str, _Status] = field(default_factory=dict)


def read_debian(text: bytes, dated: date) -> tuple[Feed, ...]:
    """A feed for each release that the tracker knows.

    Raises:
        ValueError: it is not the tracker's JSON.
    """
    fixes: dict[str, list[Fix]] = {}
    for package, issues in msgspec.json.decode(text, type=dict[str, dict[str, _Issue]]).items():
        for number, issue in issues.items():
            for codename, status in issue.releases.items():
                if codename in CODENAMES and (fix := _fix(package, number, status)):
                    fixes.setdefault(codename, []).append(fix)
    if not fixes:
        raise ValueError("no release of Debian is in it")
    return tuple(
        Feed(f"debian-{CODENAMES[codename]}", "deb", True, dated, tuple(found)) for codename, found in fixes.items()
    )


def _fix(package: str, number: str, status: _Status) -> Fix | None:
    """None where nothing is to be done: never affected, of no importance, or not decided yet."""
    urgency = status.urgency.rstrip("*")
    if urgency in _IGNORED or status.status not in {"open", "resolved"}:
        return None
    if status.status == "resolved" and status.fixed_version in {"", "0"}:
        return None
    fixed = status.fixed_version if status.status == "resolved" else ""
    return Fix(package, fixed, number, (number,), _SEVERITIES.get(urgency, "medium"))
