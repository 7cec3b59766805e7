# SPDX-License-Identifier: Apache-2.0
"""What hosts are judged against: a profile, controls, and waivers; all read before any host is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NamedTuple

from cyclopts import Parameter

from donjon.audit.advisories.data import Advisories
from donjon.audit.catalogue import catalogue
from donjon.audit.controls import rules
from donjon.audit.facts.host import Host
from donjon.audit.judge import Judgement, judge
from donjon.audit.profile import Profile, load_profile
from donjon.audit.waivers import Waiver, load_waivers
from donjon.errors import ConfigError


class Criteria(NamedTuple):
    """A profile, the waivers, and the controls that are meant; none: all."""

    profile: Profile
    waivers: tuple[Waiver, ...]
    controls: tuple[str, ...]

    def judge(self, fleet: Sequence[Host], advisories: Advisories | None) -> Judgement:
        """What is to be said of hosts today."""
        return judge(fleet, self.profile, datetime.now(UTC).date(), self.controls, advisories)


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """What hosts are judged against."""

    profile: Annotated[str, Parameter(metavar="NAME|FILE")] = "auto"
    """Profile: one of `donjon audit profile list`, or a TOML file."""

    waivers: Annotated[Path | None, Parameter(metavar="FILE")] = None
    """Findings that somebody answers for, a TOML file."""

    control: Annotated[tuple[str, ...], Parameter(metavar="ID")] = ()
    """Judge only this control; may be repeated."""

    def load(self) -> Criteria:
        """All of it.

        Raises:
            ConfigError: a file makes no sense, or there is no such control, or no rule for it yet.
        """
        known, implemented = {one.id for one in catalogue().controls}, rules()
        for one in self.control:
            if one not in implemented:
                why = "no rule judges it yet" if one in known else "there is no such control"
                raise ConfigError(f"cannot judge {one}: {why}", hint="see `donjon audit controls`")
        waivers = load_waivers(self.waivers) if self.waivers else ()
        return Criteria(load_profile(self.profile), waivers, self.control)
