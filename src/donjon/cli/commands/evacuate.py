# SPDX-License-Identifier: Apache-2.0
"""Evacuation: running guests leave a host before it is patched, and come back."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from donjon.cli.options import COMMON, Common, Given
from donjon.cli.page import Page
from donjon.cli.result import Deed
from donjon.cli.session import Session
from donjon.cli.text import count
from donjon.errors import ConfigError, IncompleteError
from donjon.harden.evacuation import Evacuation, EvacuationRecord
from donjon.harden.evacuation import evacuate as evacuate_host
from donjon.hypervisors.migration import Migrator, Route


@dataclass(frozen=True, slots=True)
class Evacuated(Deed):
    """What became of the guests; `trial`: nothing was moved."""

    evacuation: Evacuation
    trial: bool

    @property
    def exit_code(self) -> int:
        """3 if a guest stays."""
        return IncompleteError.exit_code if self.evacuation.staying else 0

    def show(self, page: Page) -> None:
        """A line for each guest."""
        done = self.evacuation
        verb = "would move" if self.trial else "moved"
        for guest in done.moved:
            page.line(f"{guest.name}: {verb} to {done.there}")
        for staying in done.staying:
            page.line(f"{staying.name}: stays on {done.here}: {'; '.join(staying.reasons)}", bold=True)
        page.line(f"{count(len(done.moved), 'guest')} {verb}, {len(done.staying)} stayed")


def evacuate(
    here: Annotated[str, Parameter(metavar="HOST", help="libvirt's address of the host to empty.")],
    /,
    *,
    to: Annotated[str, Parameter(metavar="HOST2", help="libvirt's address of the host they go to.")],
    peer: Annotated[
        str | None, Parameter(metavar="URI", help="libvirt's address of HOST2 as HOST reaches it (else HOST2).")
    ] = None,
    via: Annotated[
        str | None, Parameter(metavar="ADDRESS", help="Address of HOST2 on the migration network (else its name).")
    ] = None,
    copy_storage: Annotated[bool, Parameter(help="Take the disks along: the hosts share no storage.")] = False,
    shared_storage: Annotated[
        bool,
        Parameter(help="Both hosts see the same disks, even if libvirt cannot tell; else guests could be damaged."),
    ] = False,
    back: Annotated[bool, Parameter(help="Only guests that left HOST2 before: bring them back.")] = False,
    vm: Annotated[tuple[str, ...], Parameter(metavar="VM", help="Only this guest; may be repeated.")] = (),
    dry_run: Annotated[bool, Parameter(help="Move nothing, only say what would be.")] = False,
    common: Common = COMMON,
    program: Given,
) -> Evacuated:
    """Move the running guests of a host to another while they run, encrypted (TLS), so that it can be patched.

    A guest that cannot move stays, with the reason; the others go. Ends with 3 if one stays. Who went is written down
    at once, so that --back finds them even if this was stopped in the middle.

    Examples:
        donjon harden evacuate qemu+ssh://root@kvm1/system --to qemu+tls://kvm2/system --via 10.77.0.2

        donjon harden evacuate qemu+ssh://root@kvm2/system --to qemu+tls://kvm1/system --via 10.77.0.1 --back
    """
    if copy_storage and shared_storage:
        raise ConfigError("cannot copy disks that both hosts share", hint="say --copy-storage or --shared-storage")
    session = Session(common, program)
    record = EvacuationRecord(program.state_directory / "evacuations")
    route = Route(peer or to, via, copy_storage, shared_storage)
    with program.migrator(here) as origin, program.migrator(to) as destination, session.progress() as progress:
        away = record.away_from(destination.host_name)
        only = _to_bring_back(away, origin, vm, session) if back else list(vm) or None
        done = evacuate_host(origin, destination, route, progress, only=only, trial=dry_run, on_moved=record.left)
    return Evacuated(done, dry_run)


def _to_bring_back(away: dict[str, str], origin: Migrator, vm: Collection[str], session: Session) -> list[str]:
    """UUIDs of those of `vm`, else of all, that are away and run where they went.

    Raises:
        ConfigError: one of `vm` is not away.
    """
    strange = sorted(set(vm) - {*away, *away.values()})
    if strange:
        raise ConfigError(f"cannot bring {strange[0]} back: it did not leave by `donjon harden evacuate`")
    meant = {uuid: name for uuid, name in away.items() if not vm or {uuid, name} & set(vm)}
    running = {guest.uuid for guest in origin.running_guests()}
    for uuid, name in meant.items():
        if uuid not in running:
            session.warn(f"{name} cannot be brought back: it does not run on {origin.host_name} any more")
    return [uuid for uuid in meant if uuid in running]
