# SPDX-License-Identifier: Apache-2.0
"""VMs as libvirt knows them: what they will be at their next start, and what they use now."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from donjon.hypervisors.definition import SYSTEM_TPM_ROOT, parse_definition
from donjon.hypervisors.libvirt.connection import Connection, Domain, LibvirtError
from donjon.model.vm import Device, Power, Vm


@dataclass
class Inventory:
    """Reads VMs from a connection; `notes` are what could not be read in full, a sentence each."""

    connection: Connection
    host: str
    notes: list[str] = field(default_factory=list)

    def read(self, domain: Domain) -> Vm:
        """The VM with the definition its host keeps, and with the disks that it uses now.

        The two differ where the definition was changed, or a disk attached, while the VM was running.
        """
        vm = self._parse(self._definition(domain), domain.power())
        if vm.power is Power.OFF or not domain.is_active():
            return vm
        live = domain.definition(live=True)
        now = self._parse(live, vm.power)
        if _images(now) != _images(vm):
            self._note(f"{vm.name} runs with other disks than its definition has; those it runs with are meant")
        return replace(vm, disks=now.disks, side_files=now.side_files, live_definition=live)

    def _definition(self, domain: Domain) -> str:
        """As it will be at the next start; with its passwords, where we may see them."""
        if self.connection.read_only:
            self._note(f"the connection to {self.connection.uri} is read-only: passwords in definitions are not kept")
            return domain.definition()
        try:
            return domain.definition(secrets=True)
        except LibvirtError as error:
            if not error.means_denied:
                raise
            self._note(f"libvirt does not show the passwords in the definition of {domain.name}: they are not kept")
            return domain.definition()

    def _parse(self, definition: str, power: Power) -> Vm:
        return parse_definition(
            definition, self.host, power=power, volume_path=self._volume_path, tpm_root=self.tpm_root
        )

    @property
    def tpm_root(self) -> str:
        """Where this libvirt keeps the state of TPMs, by UUID."""
        return _session_tpm_root() if self.connection.is_session else SYSTEM_TPM_ROOT

    def _volume_path(self, pool: str, volume: str) -> str | None:
        """Of a volume that is a file or device here; None for those of a pool on the network."""
        try:
            path = self.connection.volume_path(pool, volume)
        except LibvirtError as error:
            self._note(str(error))
            return None
        return path if path.startswith("/") else None

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)


def _images(vm: Vm) -> set[tuple[str, str | None, str | None]]:
    """What the VM's disks are, whatever medium is in its drives."""
    return {(disk.target, disk.source, disk.remote) for disk in vm.disks if disk.device in (Device.DISK, Device.LUN)}


def _session_tpm_root() -> str:
    """Source: libvirt, qemu_conf.c."""
    configuration = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return str(configuration / "libvirt" / "qemu" / "swtpm")
