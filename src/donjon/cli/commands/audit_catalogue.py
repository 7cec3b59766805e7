# SPDX-License-Identifier: Apache-2.0
"""What audits judge by: controls and profiles."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Annotated

import msgspec
from cyclopts import Parameter

from donjon.audit.catalogue import Control, catalogue
from donjon.audit.controls import rules
from donjon.audit.profile import Profile, load_profile, profile_names
from donjon.cli.options import COMMON, Common
from donjon.cli.page import Page
from donjon.cli.result import Result
from donjon.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ListedControl:
    """A control, and whether a rule judges it already."""

    control: Control
    implemented: bool


@dataclass(frozen=True, slots=True)
class ControlList(Result):
    """Controls of the catalogue."""

    controls: tuple[ListedControl, ...]

    def show(self, page: Page) -> None:
        """A table; a single control in full."""
        if len(self.controls) == 1:
            _show_control(self.controls[0], page)
            return
        rows = [
            [one.control.id, one.control.severity.value, one.control.hosts, _implemented(one), one.control.title]
            for one in self.controls
        ]
        page.table(["control", "severity", "hosts", "judged", "title"], rows)


def _implemented(one: ListedControl) -> str:
    return "yes" if one.implemented else "not yet"


def _show_control(one: ListedControl, page: Page) -> None:
    control = one.control
    page.line(f"{control.id}: {control.title}", bold=True)
    facts = [
        ("severity", control.severity.value),
        ("hosts", control.hosts),
        ("judged", _implemented(one)),
        ("attack path", control.attack_path.value),
        ("looks at", control.inspect),
        ("rule", control.rule),
        ("evidence", control.evidence),
        ("fix", f"{control.fix_class.name.lower().replace('_', ' ')}: {control.fix}"),
    ]
    facts += [("principle", catalogue().principles[name]) for name in control.principles]
    page.facts([*facts, *((name, ", ".join(ids)) for name, ids in control.frameworks.items())])


def controls(
    *ids: Annotated[str, Parameter(metavar="ID", help="Controls, or beginnings of their ids; else all.")],
    common: Common = COMMON,
) -> ControlList:
    """List the controls of the catalogue, or tell all about one.

    Examples:
        donjon audit controls

        donjon audit controls GST

        donjon audit controls GST-01
    """
    del common
    implemented, known = rules(), catalogue().controls
    strange = [one for one in ids if not any(control.id.startswith(one) for control in known)]
    if strange:
        raise ConfigError(f"cannot show control {strange[0]}: there is none", hint="`donjon audit controls` lists all")
    chosen = (one for one in known if not ids or one.id.startswith(ids))
    return ControlList(tuple(ListedControl(one, one.id in implemented) for one in chosen))


@dataclass(frozen=True, slots=True)
class ProfileList(Result):
    """The profiles that donjon ships."""

    profiles: tuple[tuple[str, str], ...]

    def show(self, page: Page) -> None:
        """Name and what it is for."""
        page.table(["profile", "for"], self.profiles)


def list_profiles(*, common: Common = COMMON) -> ProfileList:
    """List the profiles that donjon ships.

    Examples:
        donjon audit profile list
    """
    del common
    loaded = map(load_profile, profile_names())
    return ProfileList(tuple((one.name, one.description) for one in loaded))


@dataclass(frozen=True, slots=True)
class ShownProfile(Result):
    """A profile with all its defaults."""

    profile: Profile

    def show(self, page: Page) -> None:
        """As a file of one's own could say it."""
        told = msgspec.to_builtins(self.profile, builtin_types=(date,))
        page.raw(msgspec.toml.encode({key: value for key, value in told.items() if value is not None}).decode())


def show_profile(
    name: Annotated[str, Parameter(metavar="NAME|FILE", help="A profile that donjon ships, or a TOML file.")],
    /,
    *,
    common: Common = COMMON,
) -> ShownProfile:
    """Show a profile with all its defaults, as a file to begin one's own with.

    Examples:
        donjon audit profile show kvm-cluster >ours.toml
    """
    del common
    return ShownProfile(load_profile(name))
