# SPDX-License-Identifier: Apache-2.0
"""What donjon needs of a hypervisor: know its VMs, hold them still, define new ones."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from donjon.model.vm import Power, Vm


class Hypervisor(Protocol):
    """A host's VMs, known by UUID. Every method raises HostError if the host is out of reach or refuses.

    `start` and `resume` take back what `shut_down` and `suspend` do: they succeed if there is nothing to take back.
    """

    @property
    def uri(self) -> str:
        """Its address, for messages."""
        ...

    @property
    def host_name(self) -> str:
        """The name of the host the VMs run on."""
        ...

    @property
    def tpm_root(self) -> Path:
        """The directory where it keeps the state of its guests' TPMs, by UUID."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be seen in full so far, a sentence each."""
        ...

    def list_vms(self) -> list[Vm]:
        """All VMs, running or not, by name."""
        ...

    def find_vm(self, name_or_uuid: str) -> Vm:
        """The one VM of that name or UUID.

        Raises:
            HostError: there is none, or more than one; the hint has names that are close.
        """
        ...

    def power(self, uuid: str) -> Power:
        """What the guest does now. A guest whose memory is saved on disk is PAUSED: its disks are as it left them."""
        ...

    def shut_down(self, uuid: str, timeout_s: float) -> None:
        """Ask the guest to end in order, and wait until it has; succeeds if it is off already.

        Raises:
            HostError: it is not running, would be gone for good, or is still there after `timeout_s`; it is left
                as it is, and may still end later.
        """
        ...

    def start(self, uuid: str) -> None:
        """Turn the guest on; succeeds if it is on already."""
        ...

    def suspend(self, uuid: str) -> None:
        """Stop the guest's processors, whose memory stays; succeeds if they are stopped already.

        Raises:
            HostError: it is off.
        """
        ...

    def resume(self, uuid: str) -> None:
        """Let a suspended guest go on; succeeds if it is not suspended."""
        ...

    def define(self, definition: str) -> Vm:
        """Add a VM, shut off.

        Raises:
            ConfigError: the definition cannot be read.
            RefusedError: a VM of that name or UUID exists.
        """
        ...

    def pool_path(self, pool: str) -> Path:
        """The directory of a storage pool.

        Raises:
            HostError: there is no such pool, or it is no directory.
        """
        ...
