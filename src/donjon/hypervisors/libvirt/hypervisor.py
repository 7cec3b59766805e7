# SPDX-License-Identifier: Apache-2.0
"""A host reached through libvirt: KVM, or whatever else its address says."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self

from donjon.errors import HostError, RefusedError
from donjon.hypervisors.definition import child_text, parse_domain
from donjon.hypervisors.document import parse_document
from donjon.hypervisors.libvirt import power
from donjon.hypervisors.libvirt.agent import LibvirtAgents
from donjon.hypervisors.libvirt.connection import Connection, LibvirtError
from donjon.hypervisors.libvirt.hot_backup import LibvirtBackups
from donjon.hypervisors.libvirt.inventory import Inventory
from donjon.hypervisors.libvirt.live_disks import LibvirtLiveDisks
from donjon.hypervisors.selection import choose
from donjon.model.vm import Power, Vm

_DIRECTORY_POOLS = ("dir", "fs", "netfs")


class LibvirtHypervisor(LibvirtAgents, LibvirtBackups, LibvirtLiveDisks):
    """The VMs of one libvirt connection."""

    def __init__(self, uri: str, open_fully: Callable[[str], Any] | None = None) -> None:
        """Connect to any address libvirt understands, read-only where no more is permitted.

        A test may give an `open_fully` that does not permit more.

        Raises:
            HostError: it cannot be reached; the hint says what to look at.
        """
        self._connection = Connection(uri, open_fully)
        self._inventory = Inventory(self._connection, self._connection.host_name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    @property
    def uri(self) -> str:
        """As it was given."""
        return self._connection.uri

    @property
    def host_name(self) -> str:
        """The host's own name for itself."""
        return self._inventory.host

    @property
    def tpm_root(self) -> Path:
        """Of the system's libvirt, or of this user's session."""
        return Path(self._inventory.tpm_root)

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be seen in full so far, a sentence each."""
        return tuple(self._inventory.notes)

    def list_vms(self) -> list[Vm]:
        """All VMs, running or not, by name; one that goes away meanwhile is left out."""
        vms = []
        for domain in self._connection.domains():
            try:
                vms.append(self._inventory.read(domain))
            except LibvirtError as error:
                if not error.means_gone:
                    raise
        return sorted(vms, key=lambda vm: vm.name)

    def find_vm(self, name_or_uuid: str) -> Vm:
        """The one VM of that name or UUID."""
        names = {domain.uuid: domain.name for domain in self._connection.domains()}
        return self._inventory.read(self._connection.domain(choose(names, name_or_uuid)))

    def power(self, uuid: str) -> Power:
        """What the guest does now."""
        return self._connection.domain(uuid).power()

    def shut_down(self, uuid: str, timeout_s: float) -> None:
        """Ask the guest to end in order, by agent or power button, and wait until it has."""
        power.shut_down(self._connection.domain(uuid), timeout_s)

    def start(self, uuid: str) -> None:
        """Turn the guest on, unless it is."""
        power.start(self._connection.domain(uuid))

    def suspend(self, uuid: str) -> None:
        """Stop the guest's processors, unless they are."""
        power.suspend(self._connection.domain(uuid))

    def resume(self, uuid: str) -> None:
        """Let the guest go on, if it is suspended."""
        power.resume(self._connection.domain(uuid))

    def define(self, definition: str) -> Vm:
        """Add a VM, shut off; never changes one that exists (libvirt itself would)."""
        wanted = parse_domain(definition)
        name, uuid = child_text(wanted, "name"), child_text(wanted, "uuid").lower()
        for domain in self._connection.domains():
            if domain.name == name or domain.uuid == uuid:
                raise RefusedError(
                    f"cannot define {name}: {domain.name} ({domain.uuid}) exists",
                    hint="give it another name and a new identity, or undefine the other first",
                )
        return self._inventory.read(self._connection.define(definition))

    def pool_path(self, pool: str) -> Path:
        """The directory of a storage pool."""
        try:
            definition = parse_document(self._connection.pool_definition(pool))
        except LibvirtError as error:
            if not error.means_gone:
                raise
            close = get_close_matches(pool, self._connection.pools())
            raise HostError(
                f"cannot find the storage pool {pool!r}: there is none of that name",
                hint=f"did you mean {' or '.join(map(repr, close))}?"
                if close
                else "`virsh pool-list --all` shows them",
            ) from error
        kind, path = definition.get("type"), child_text(definition, "target/path")
        if kind not in _DIRECTORY_POOLS or not path:
            raise HostError(f"cannot use the storage pool {pool!r}: it is no directory but of type {kind}")
        return Path(path)
