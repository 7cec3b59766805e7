# SPDX-License-Identifier: Apache-2.0
"""Hosts that are audited: looked at now, or from bundles of before."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

from cyclopts import Parameter

from donjon.audit.bundle import Bundle
from donjon.audit.collect.bundle_file import read_bundle
from donjon.audit.collect.collecting import collect_many
from donjon.audit.collect.sosreport import read_evidence
from donjon.audit.collect.target import Target, parse_target
from donjon.audit.facts.host import Host, read_host
from donjon.cli.commands.audit_result import NotCollected
from donjon.cli.options import Common
from donjon.cli.text import safe
from donjon.errors import ConfigError, DonjonError
from donjon.scratch_folder import scratch_folder


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Which hosts are looked at, and how they are reached."""

    host: Annotated[tuple[str, ...], Parameter(metavar="ssh://USER@HOST")] = ()
    """Look at this host through ssh; may be repeated. `local` is this machine."""

    local: bool = False
    """Look at this machine, too."""

    sudo: bool = False
    """Become root on the hosts with `sudo -n`."""

    legacy: bool = False
    """Also allow the ssh algorithms of hosts as old as Oracle VM 3."""

    parallel: Annotated[int, Parameter(metavar="N")] = 16
    """Look at so many hosts at a time."""

    def targets(self) -> list[Target]:
        """The hosts that are named. Raises ConfigError."""
        if self.parallel < 1:
            raise ConfigError(f"cannot look at {self.parallel} hosts at a time")
        names = (*(("local",) if self.local else ()), *self.host)
        return [parse_target(name, legacy=self.legacy, sudo=self.sudo) for name in names]


class Looked(NamedTuple):
    """The facts of the hosts, and those that could not be looked at."""

    hosts: tuple[Host, ...]
    failed: tuple[NotCollected, ...]


def look_at(places: Places, bundles: tuple[Path, ...], common: Common) -> Looked:
    """The facts of all hosts that are named, and of bundles; of this machine if nothing is named.

    Raises:
        DonjonError: a bundle cannot be read; or none of the hosts could be looked at.
    """
    targets = places.targets() or ([Target(sudo=places.sudo)] if not bundles else [])
    read = [read_host(read_evidence(path)) for path in bundles]
    failed: tuple[NotCollected, ...] = ()
    if targets:
        with scratch_folder() as folder:
            collected, failed = collect_into(folder, targets, places, common)
            read += [read_host(bundle) for bundle in collected]
    return Looked(tuple(read), failed)


def collect_into(
    folder: Path, targets: list[Target], places: Places, common: Common
) -> tuple[list[Bundle], tuple[NotCollected, ...]]:
    """Bundles of the hosts in a folder. Raises the error if there is a single host, and it failed."""
    done = 0

    def tell(target: Target, error: DonjonError | None) -> None:
        nonlocal done
        done += 1
        if len(targets) > 1 and not common.quiet:
            outcome = f"not looked at: {safe(str(error))}" if error else "looked at"
            sys.stderr.write(f"{done}/{len(targets)} {target}: {outcome}\n")

    found = collect_many(targets, folder, parallel=places.parallel, on_progress=tell)
    errors = {target: one for target, one in found.items() if isinstance(one, DonjonError)}
    if len(errors) == len(found) == 1:
        raise next(iter(errors.values()))
    bundles = [read_bundle(one) for one in found.values() if isinstance(one, Path)]
    return bundles, tuple(NotCollected(str(target), safe(str(error)), error.hint) for target, error in errors.items())
