# SPDX-License-Identifier: Apache-2.0
"""Hosts that are audited: looked at now, or from bundles of before."""

from __future__ import annotations

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
from donjon.cli.commands.audit_result import NotCollected, not_collected
from donjon.cli.session import Session
from donjon.errors import ConfigError, DonjonError, HostError
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
        """The hosts that are named, each once. Raises ConfigError."""
        if self.parallel < 1:
            raise ConfigError(f"cannot look at {self.parallel} hosts at a time")
        names = (*(("local",) if self.local else ()), *self.host)
        return list(dict.fromkeys(parse_target(name, legacy=self.legacy, sudo=self.sudo) for name in names))


_BUNDLE = "Judge what was seen before: a file of `donjon audit collect`, or a sosreport; may be repeated."
Bundles = Annotated[tuple[Path, ...], Parameter(metavar="FILE", help=_BUNDLE)]


class Looked(NamedTuple):
    """The facts of the hosts, and those that could not be looked at."""

    hosts: tuple[Host, ...]
    failed: tuple[NotCollected, ...]


def look_at(places: Places, bundles: tuple[Path, ...], session: Session) -> Looked:
    """The facts of all hosts that are named, and of bundles; of this machine if nothing is named.

    Raises:
        DonjonError: a bundle cannot be read; or none of the hosts could be looked at.
    """
    targets = places.targets() or ([Target(sudo=places.sudo)] if not bundles else [])
    found: dict[str, Bundle | DonjonError] = {str(path): read_evidence(path) for path in bundles}
    if targets:
        with scratch_folder() as folder:
            found |= _collected(folder, targets, places.parallel, session)
    errors = {where: one for where, one in found.items() if isinstance(one, DonjonError)}
    if len(errors) == len(found):
        raise _nothing_seen(errors)
    hosts, doubles = _told_apart({where: one for where, one in found.items() if isinstance(one, Bundle)})
    return Looked(hosts, tuple(not_collected(where, error) for where, error in (errors | doubles).items()))


def _collected(folder: Path, targets: list[Target], parallel: int, session: Session) -> dict[str, Bundle | DonjonError]:
    done = 0

    def tell(target: Target, error: DonjonError | None) -> None:
        nonlocal done
        done += 1
        if len(targets) > 1:
            session.tell(f"{done}/{len(targets)} {target}: {f'not looked at: {error}' if error else 'looked at'}")

    found = collect_many(targets, folder, parallel=parallel, on_progress=tell)
    return {str(target): read_bundle(one) if isinstance(one, Path) else one for target, one in found.items()}


def _nothing_seen(errors: dict[str, DonjonError]) -> DonjonError:
    """The error of the only host, or one with a note for each."""
    if len(errors) == 1:
        return next(iter(errors.values()))
    error = HostError(f"cannot look at any of {len(errors)} hosts")
    for one in errors.values():
        error.add_note(f"{one} ({one.hint})" if one.hint else str(one))
    return error


def _told_apart(bundles: dict[str, Bundle]) -> tuple[tuple[Host, ...], dict[str, DonjonError]]:
    """Hosts by where they were seen; of those with the same machine-id the first, since results name a host by it."""
    hosts: dict[str, tuple[str, Host]] = {}
    doubles: dict[str, DonjonError] = {}
    for where, bundle in bundles.items():
        host = read_host(bundle)
        first, _ = hosts.setdefault(host.platform.id, (where, host))
        if first != where:
            doubles[where] = HostError(
                f"cannot tell {where} from {first}: they have the same machine-id",
                hint="judge them one at a time; a machine that was cloned needs a machine-id of its own",
            )
    return tuple(host for _, host in hosts.values()), doubles
