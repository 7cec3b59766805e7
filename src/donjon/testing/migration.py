# SPDX-License-Identifier: Apache-2.0
"""Hosts in memory between which guests move."""

from __future__ import annotations

from collections.abc import Iterable

from donjon.errors import HostError
from donjon.hypervisors.migration import Route, RunningGuest
from donjon.model.progress import Progress


class FakeMigrators:
    """Hosts by address. A guest whose UUID is in `refused` does not move: QEMU's reason is its value.

    `stopped_at`: UUID of the guest at which the operator presses Ctrl-C.
    """

    def __init__(self, hosts: dict[str, Iterable[RunningGuest]], refused: dict[str, str] | None = None) -> None:
        self.refused = dict(refused or {})
        self.routes: list[Route] = []
        self.stopped_at: str | None = None
        self._guests = {address: {guest.uuid: guest for guest in guests} for address, guests in hosts.items()}

    def at(self, address: str) -> FakeMigrator:
        """The host there."""
        return FakeMigrator(self, address)

    def guests(self, address: str) -> dict[str, RunningGuest]:
        """The guests that run there, by UUID."""
        return self._guests[address]


class FakeMigrator:
    """One of them; its name is its address."""

    def __init__(self, hosts: FakeMigrators, address: str) -> None:
        self._hosts = hosts
        self.host_name = address

    def running_guests(self) -> list[RunningGuest]:
        """The guests that run, by name."""
        return sorted(self._hosts.guests(self.host_name).values(), key=lambda guest: guest.name)

    def move(self, uuid: str, route: Route, progress: Progress) -> None:
        """Move a guest, unless it is refused."""
        progress.begin(f"moving {uuid}", 0)
        self._hosts.routes.append(route)
        if uuid == self._hosts.stopped_at:
            raise KeyboardInterrupt("SIGINT")
        if uuid in self._hosts.refused:
            raise HostError(f"cannot move it: {self._hosts.refused[uuid]}")
        guest = self._hosts.guests(self.host_name).pop(uuid)
        self._hosts.guests(route.destination)[uuid] = guest
