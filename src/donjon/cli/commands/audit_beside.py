# SPDX-License-Identifier: Apache-2.0
"""What is known of a host beside what it says itself: advisories, restore points, the guests in them, gold images."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from donjon.audit.advisories.advisory_file import load
from donjon.audit.advisories.data import Advisories
from donjon.audit.backup_source import inspect_guests, read_backup
from donjon.audit.fact import Known
from donjon.audit.facts.guests import Gold
from donjon.audit.facts.host import Host
from donjon.audit.guest.inspect import inspect_image
from donjon.cli.session import Session
from donjon.errors import ConfigError
from donjon.gold.register import Register
from donjon.gold.seal import read_gold


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What else is looked at."""

    advisories: Annotated[Path | None, Parameter(metavar="DIR")] = None
    """Advisories, where `donjon advisories import` left them (else in donjon's state directory)."""

    restore_points: bool = False
    """Also judge the repository's restore points, and the guests as they are in the newest of them."""

    disk: Annotated[tuple[str, ...], Parameter(metavar="VM=IMAGE")] = ()
    """Look into a VM's disk image, which nobody uses; may be repeated."""

    gold: Annotated[Path | None, Parameter(metavar="DIR")] = None
    """Register of gold images, which are judged, too; needs --signers."""

    signers: Annotated[Path | None, Parameter(metavar="FILE")] = None
    """Who may sign seals of gold images: ssh's file of allowed signers."""

    def known_holes(self, session: Session) -> Advisories | None:
        """The advisories; None if there are none, and none were asked for. Raises ConfigError, IntegrityError."""
        found = load(self.advisories or advisories_folder(session))
        if found is None and self.advisories:
            raise ConfigError(f"cannot use advisories in {self.advisories}: there are none", hint=_IMPORT)
        return found

    def gold_images(self) -> tuple[Gold, ...] | None:
        """The gold images as they are now; None if they were not asked for. Raises DonjonError."""
        if self.gold is None and self.signers is None:
            return None
        if self.gold is None or self.signers is None:
            lacking = "--gold DIR" if self.gold is None else "--signers FILE"
            raise ConfigError("cannot judge gold images by half of what that needs", hint=f"say {lacking}, too")
        if not self.gold.is_dir():
            raise ConfigError(f"cannot judge the gold images of {self.gold}: there is no such directory")
        return read_gold(Register(self.gold), self.signers)

    def with_disks(self, hosts: tuple[Host, ...]) -> tuple[Host, ...]:
        """The hosts, with what the images of --disk say of their VMs. Raises ConfigError, HostError."""
        for word in self.disk:
            name, separator, image = word.partition("=")
            if not (name and separator and image):
                raise ConfigError(f"cannot understand --disk {word}", hint="say VM=IMAGE")
            owner = next((host for host in hosts if name in _vms(host)), None)
            if owner is None:
                raise ConfigError(f"cannot look into a disk of {name}: no host that was looked at has such a VM")
            guest = {_vms(owner)[name]: inspect_image(Path(image))}
            looked = msgspec.structs.replace(owner, guests=owner.guests | guest)
            hosts = tuple(looked if host is owner else host for host in hosts)
        return hosts

    def with_backups(self, hosts: tuple[Host, ...], session: Session) -> tuple[Host, ...]:
        """The hosts, with what repository and records say of their VMs if that was asked for. Raises DonjonError."""
        if not self.restore_points:
            return hosts
        with session.reading() as repository:
            left = session.program.left_owed()
            backup = read_backup([repository], session.program.drills, left, datetime.now(UTC))
            return tuple(
                msgspec.structs.replace(
                    host, backup=backup, guests=inspect_guests([repository], set(_vms(host).values()))
                )
                for host in hosts
            )


_IMPORT = "`donjon advisories import` brings some"


def advisories_folder(session: Session) -> Path:
    """Where advisories are kept."""
    return session.program.state_directory / "advisories"


def _vms(host: Host) -> dict[str, str]:
    """Name or UUID of a VM -> its UUID."""
    domains = host.domains.all
    known = domains.value if isinstance(domains, Known) else ()
    return {key: vm.uuid for vm in known for key in (vm.name, vm.uuid) if vm.uuid}
