# SPDX-License-Identifier: Apache-2.0
"""Tables that donjon ships: what belongs on a host, when support of releases ends, where Xen advisories are fixed.

Each says of which day it is.
"""

from __future__ import annotations

from datetime import date
from functools import cache
from importlib.resources import files

import msgspec
from msgspec import Struct

Patterns = tuple[str, ...]


class Roles(Struct, frozen=True, forbid_unknown_fields=True):
    """What belongs on a host of a kind (K, X, O; "" for all), and what belongs on none."""

    dated: date
    packages: dict[str, Patterns]
    services: dict[str, Patterns]
    listeners: dict[str, dict[str, Patterns]]
    container_engines: dict[str, Patterns]
    legacy: dict[str, Patterns]

    def services_of(self, kinds: str) -> Patterns:
        """Units that may be enabled."""
        return tuple(pattern for kind in ("", *kinds) for pattern in self.services.get(kind, ()))

    def programs_at(self, kinds: str, protocol: str, port: int) -> Patterns | None:
        """The programs that may listen there; None if none may."""
        found: list[str] = []
        for kind in ("", *kinds):
            for place, programs in self.listeners.get(kind, {}).items():
                name, _, ports = place.partition("/")
                first, _, last = ports.partition("-")
                if name == protocol and int(first) <= port <= int(last or first):
                    found.extend(programs)
        return tuple(found) or None


class SupportEnds(Struct, frozen=True, forbid_unknown_fields=True):
    """The last day of security updates, by release: "debian-12"."""

    dated: date
    ends: dict[str, date]


class XenAdvisories(Struct, frozen=True, forbid_unknown_fields=True):
    """Advisory -> branch of Xen -> first release with the fix, or "branch-head" if only later commits have it.

    Of a branch that is not named nothing is known: it may not be affected, or not be fixed.
    """

    source: str
    dated: date
    fixed: dict[str, dict[str, str]]

    def fixed_after(self, release: str) -> tuple[str, ...]:
        """The advisories whose fix came to the branch of this release ("4.17.5") after it."""
        numbers = _numbers(release)
        branch = f"{numbers[0]}.{numbers[1]}"
        return tuple(
            advisory
            for advisory, branches in self.fixed.items()
            if branch in branches and (branches[branch] == "branch-head" or _numbers(branches[branch]) > numbers)
        )

    def knows(self, release: str) -> bool:
        """Whether anything is known of the branch of this release."""
        branch = ".".join(release.split(".")[:2])
        return any(branch in branches for branches in self.fixed.values())


@cache
def roles() -> Roles:
    """What belongs on a host."""
    return msgspec.toml.decode((files("donjon.audit") / "roles.toml").read_bytes(), type=Roles)


@cache
def support_ends() -> SupportEnds:
    """When the support of releases ends."""
    return msgspec.toml.decode((files("donjon.audit") / "support_ends.toml").read_bytes(), type=SupportEnds)


@cache
def xen_advisories() -> XenAdvisories:
    """Which Xen advisories are fixed in which releases."""
    return msgspec.json.decode((files("donjon.audit.advisories") / "xsa.json").read_bytes(), type=XenAdvisories)


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(number) for number in release.split("."))
