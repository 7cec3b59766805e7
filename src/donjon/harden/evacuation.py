# SPDX-License-Identifier: Apache-2.0
"""A host is emptied before it is patched, and filled again afterwards: its running guests move, and come back."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import msgspec

from donjon.errors import ConfigError, HostError, RefusedError
from donjon.hypervisors.migration import Migrator, Route, RunningGuest, obstacles
from donjon.images.new_file import new_file
from donjon.model.progress import Progress


@dataclass(frozen=True, slots=True)
class Staying:
    """A guest that stays, and why."""

    uuid: str
    name: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Moved:
    """A guest that is on the other host now; or would be, of a trial."""

    uuid: str
    name: str


@dataclass(frozen=True, slots=True)
class Evacuation:
    """What became of the guests of a host. `here` and `there` are names of hosts."""

    here: str
    there: str
    moved: tuple[Moved, ...]
    staying: tuple[Staying, ...]


def evacuate(
    here: Migrator,
    there: Migrator,
    route: Route,
    progress: Progress,
    *,
    only: Collection[str] | None = None,
    trial: bool = False,
    on_moved: Callable[[Evacuation], None] = lambda _: None,
) -> Evacuation:
    """Move the running guests of a host to another, one after the other.

    A guest that cannot move stays, and does not keep the others from moving.

    Args:
        here: the host to empty.
        there: the other.
        route: how to get there, as seen from `here`.
        progress: is told of each guest.
        only: UUIDs or names of the guests that are meant; None: all.
        trial: move nothing, only say what would be.
        on_moved: told of each guest as soon as it is there, so that whoever is stopped in the middle knows.

    Raises:
        RefusedError: both are the same host.
        ConfigError: one of `only` does not run here.
        HostError: a host is out of reach.
    """
    if here.host_name == there.host_name:
        raise RefusedError(f"cannot evacuate {here.host_name}: it is where the guests would go")
    guests = _chosen(here, only)
    present = {guest.uuid for guest in there.running_guests()}
    moved: list[Moved] = []
    staying: list[Staying] = []
    for guest in guests:
        reasons = _reasons(guest, present)
        if not reasons and not trial:
            reasons = _move(here, guest, route, progress)
        if reasons:
            staying.append(Staying(guest.uuid, guest.name, reasons))
            continue
        moved.append(Moved(guest.uuid, guest.name))
        if not trial:
            on_moved(Evacuation(here.host_name, there.host_name, (moved[-1],), ()))
    return Evacuation(here.host_name, there.host_name, tuple(moved), tuple(staying))


def _chosen(here: Migrator, only: Collection[str] | None) -> list[RunningGuest]:
    guests = here.running_guests()
    if only is None:
        return guests
    known = {name for guest in guests for name in (guest.uuid, guest.name)}
    strange = sorted(set(only) - known)
    if strange:
        raise ConfigError(f"cannot move {strange[0]}: it does not run on {here.host_name}")
    return [guest for guest in guests if {guest.uuid, guest.name} & set(only)]


def _reasons(guest: RunningGuest, present: Collection[str]) -> tuple[str, ...]:
    if guest.uuid in present:
        return ("it runs on both hosts already",)
    return obstacles(guest.definition)


def _move(here: Migrator, guest: RunningGuest, route: Route, progress: Progress) -> tuple[str, ...]:
    try:
        here.move(guest.uuid, route, progress)
    except HostError as error:
        return (str(error),)
    return ()


class EvacuationRecord:
    """Which guests left a host, so that the same ones can be brought back; a file for each host."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def away_from(self, host: str) -> dict[str, str]:
        """UUID -> name of the guests that left a host and did not come back. Raises HostError."""
        try:
            return msgspec.json.decode(self._path(host).read_bytes(), type=dict[str, str])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError) as error:
            raise HostError(f"cannot read which guests left {host}: {error}") from error

    def left(self, evacuation: Evacuation) -> None:
        """Guests left `here`, and are no longer away from `there`. Raises HostError."""
        moved = {guest.uuid: guest.name for guest in evacuation.moved}
        self._write(evacuation.here, self.away_from(evacuation.here) | moved)
        back = {uuid: name for uuid, name in self.away_from(evacuation.there).items() if uuid not in moved}
        self._write(evacuation.there, back)

    def _write(self, host: str, guests: dict[str, str]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with new_file(self._path(host), exist_ok=True) as unfinished:
            unfinished.write_bytes(msgspec.json.encode(guests))

    def _path(self, host: str) -> Path:
        return self._folder / f"{host.replace('/', '_')}.json"
