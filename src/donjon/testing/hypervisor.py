# SPDX-License-Identifier: Apache-2.0
"""A hypervisor in memory, which remembers its VMs and what they do."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from donjon.errors import HostError, RefusedError
from donjon.hypervisors.definition import SYSTEM_TPM_ROOT, parse_definition
from donjon.hypervisors.selection import choose
from donjon.model.vm import Power, Vm
from donjon.testing.agent import FakeAgents
from donjon.testing.live_disks import FakeLiveDisks


class FakeHypervisor(FakeAgents, FakeLiveDisks):
    """A host whose guests end when asked to, except those in `hanging` (UUIDs), for which no time is enough."""

    def __init__(
        self,
        vms: Iterable[Vm] = (),
        *,
        uri: str = "fake:///default",
        host_name: str = "fakehost",
        pools: Mapping[str, Path] | None = None,
        hanging: Collection[str] = (),
    ) -> None:
        FakeAgents.__init__(self, uri)
        FakeLiveDisks.__init__(self)
        self.host_name = host_name
        self.notes: tuple[str, ...] = ()
        self.tpm_root = Path(SYSTEM_TPM_ROOT)
        self.hanging = set(hanging)
        self._pools = dict(pools or {})
        self._vms = {vm.uuid: vm for vm in vms}

    def list_vms(self) -> list[Vm]:
        """By name."""
        return sorted(self._vms.values(), key=lambda vm: vm.name)

    def find_vm(self, name_or_uuid: str) -> Vm:
        """As it is now."""
        return self._vms[choose({vm.uuid: vm.name for vm in self._vms.values()}, name_or_uuid)]

    def power(self, uuid: str) -> Power:
        """What the guest does now."""
        return self.find_vm(uuid).power

    def shut_down(self, uuid: str, timeout_s: float) -> None:
        """At once, or in vain: the time-out is never waited for."""
        vm = self.find_vm(uuid)
        if vm.power is Power.OFF:
            return
        if vm.power is not Power.RUNNING:
            raise HostError(f"cannot shut down {vm.name}: it is {vm.power.value}")
        if uuid in self.hanging:
            raise HostError(f"cannot shut down {vm.name}: it is still running after {timeout_s:g} s")
        self._set_power(vm, Power.OFF)

    def start(self, uuid: str) -> None:
        """Unless it is on."""
        vm = self.find_vm(uuid)
        if vm.power is Power.OFF:
            self._set_power(vm, Power.RUNNING)

    def suspend(self, uuid: str) -> None:
        """Unless it is off."""
        vm = self.find_vm(uuid)
        if vm.power is Power.OFF:
            raise HostError(f"cannot suspend {vm.name}: it is off")
        self._set_power(vm, Power.PAUSED)

    def resume(self, uuid: str) -> None:
        """If it is paused."""
        vm = self.find_vm(uuid)
        if vm.power is Power.PAUSED:
            self._set_power(vm, Power.RUNNING)

    def define(self, definition: str) -> Vm:
        """Shut off, under a UUID of its own if it comes without."""
        vm = parse_definition(definition, self.host_name, power=Power.OFF)
        for other in self._vms.values():
            if other.name == vm.name or other.uuid == vm.uuid:
                raise RefusedError(f"cannot define {vm.name}: {other.name} ({other.uuid}) exists")
        vm = vm if vm.uuid else replace(vm, uuid=str(uuid4()))
        self._vms[vm.uuid] = vm
        return vm

    def pool_path(self, pool: str) -> Path:
        """As given."""
        if pool not in self._pools:
            raise HostError(f"cannot find the storage pool {pool!r}: there is none of that name")
        return self._pools[pool]

    def is_known(self, uuid: str) -> bool:
        """Whether there is such a VM."""
        return uuid in self._vms

    def forget(self, uuid: str) -> None:
        """Somebody undefines it."""
        del self._vms[uuid]

    def change(self, vm: Vm) -> None:
        """Somebody gives the VM of that UUID other properties."""
        self._vms[vm.uuid] = vm

    def power_off(self, uuid: str) -> None:
        """The guest ends in order, by itself."""
        self._set_power(self.find_vm(uuid), Power.OFF)

    def _set_power(self, vm: Vm, power: Power) -> None:
        if power is Power.OFF:
            self.end_jobs(vm.uuid)
            self.agent(vm.uuid).frozen = False
        live = None if power is Power.OFF else vm.live_definition or vm.definition or "<domain/>"
        self._vms[vm.uuid] = replace(vm, power=power, live_definition=live)
