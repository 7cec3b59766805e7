# SPDX-License-Identifier: Apache-2.0
"""Guests that run from a backup, in memory: fetched disks, screens, consoles, isolated networks."""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path

from donjon.errors import HostError
from donjon.model.vm import Power
from donjon.testing.hot_backup import FakeBackups

PULL_STEPS = 3
"""How often one must look before a disk is fetched."""

SCREEN = b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")
"""A picture of one black pixel."""


class FakeLiveDisks(FakeBackups):
    """Beside backup jobs.

    Attributes:
        pulls: how far fetching of a disk is, by UUID and target.
        consoles: the files that get what guests say, by UUID.
        networks: names of those that there are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pulls: dict[tuple[str, str], int] = {}
        self.consoles: dict[str, Path] = {}
        self.networks: set[str] = set()

    def is_known(self, uuid: str) -> bool:
        """Of the hypervisor that this is part of."""
        raise NotImplementedError

    def forget(self, uuid: str) -> None:
        """Of the hypervisor that this is part of."""
        raise NotImplementedError

    def destroy(self, uuid: str) -> None:
        """At once; bitmaps stay sound, as QEMU is asked to end."""
        if self.is_known(uuid) and self.find_vm(uuid).power is not Power.OFF:
            self.power_off(uuid)
            self.pulls = {key: done for key, done in self.pulls.items() if key[0] != uuid}

    def undefine(self, uuid: str) -> None:
        """With its checkpoints."""
        if not self.is_known(uuid):
            return
        vm = self.find_vm(uuid)
        if vm.power is not Power.OFF:
            raise HostError(f"cannot undefine {vm.name}: it is on")
        self.forget_checkpoints(uuid)
        self.forget(uuid)

    def begin_pull(self, uuid: str, target: str) -> None:
        """From the beginning."""
        vm = self.find_vm(uuid)
        if vm.power is Power.OFF or (uuid, target) in self.pulls:
            raise HostError(f"cannot fetch the disk {target} of {vm.name}: it is off, or at it")
        self.pulls[uuid, target] = 0

    def pull_progress(self, uuid: str, target: str) -> tuple[int, int] | None:
        """A step further each time."""
        vm = self.find_vm(uuid)
        if vm.power is Power.OFF:
            raise HostError(f"cannot look at the disk {target} of {vm.name}: it is off")
        done = self.pulls.pop((uuid, target), PULL_STEPS)
        if done >= PULL_STEPS:
            return None
        self.pulls[uuid, target] = done + 1
        return done, PULL_STEPS

    def cancel_pull(self, uuid: str, target: str) -> None:
        """At once."""
        self.pulls.pop((uuid, target), None)

    def screenshot(self, uuid: str) -> bytes:
        """Always the same."""
        vm = self.find_vm(uuid)
        if vm.power is Power.OFF:
            raise HostError(f"cannot take a picture of the screen of {vm.name}: it is off")
        return SCREEN

    def console_path(self, uuid: str) -> Path | None:
        """As a test says."""
        return self.consoles.get(self.find_vm(uuid).uuid)

    def create_isolated_network(self, name: str) -> None:
        """Unless there is one."""
        self.networks.add(name)

    def delete_network(self, name: str) -> None:
        """If there is one."""
        self.networks.discard(name)
