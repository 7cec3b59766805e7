# SPDX-License-Identifier: Apache-2.0
"""The catalogue of controls: what each looks at, when it fails, how it is fixed, and where it comes from."""

from __future__ import annotations

import enum
from functools import cache
from importlib.resources import files

import msgspec
from msgspec import Struct

from donjon.audit.verdict import Severity

KINDS = {"K": "KVM/libvirt", "X": "Xen with xl", "O": "Oracle VM 3"}
"""Kinds of host, by letter."""


class FixClass(enum.Enum):
    """How far donjon goes in fixing: a file-level change, a guarded change, at the next start, or instructions."""

    AUTOMATIC = "A"
    GUARDED = "G"
    NEXT_BOOT = "R"
    INSTRUCTIONS = "M"


class AttackPath(enum.Enum):
    """Who gains from a failure; reports are grouped by it, worst first."""

    REMOTE = "remote unauthenticated"
    GUEST_TO_HOST = "guest to host"
    GUEST_TO_GUEST = "guest to guest"
    LOCAL_ADMIN = "local admin"
    RECOVERY = "recovery"


class Control(Struct, frozen=True, forbid_unknown_fields=True):
    """One control. `hosts` are letters of KINDS."""

    id: str
    area: str
    title: str
    hosts: str
    severity: Severity
    tier: int
    fix_class: FixClass
    attack_path: AttackPath
    inspect: str
    rule: str
    fix: str
    evidence: str
    principles: tuple[str, ...]
    frameworks: dict[str, tuple[str, ...]]


class Catalogue(Struct, frozen=True, forbid_unknown_fields=True):
    """All controls, their areas, and the principles they serve."""

    schema: int
    areas: dict[str, str]
    principles: dict[str, str]
    controls: tuple[Control, ...]

    def control(self, number: str) -> Control:
        """The control of this id.

        Raises:
            KeyError: there is none.
        """
        return _by_id()[number]


@cache
def catalogue() -> Catalogue:
    """The catalogue this donjon ships."""
    return msgspec.json.decode((files("donjon.audit") / "catalogue.json").read_bytes(), type=Catalogue)


@cache
def _by_id() -> dict[str, Control]:
    return {control.id: control for control in catalogue().controls}
