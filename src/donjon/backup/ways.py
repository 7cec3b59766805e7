# SPDX-License-Identifier: Apache-2.0
"""Which way a VM is backed up, by what its guest does: live while it runs, offline while it is off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from donjon.backup.method import Capture, GroupMethod, Method
from donjon.backup.methods.live import GuestEndedError
from donjon.errors import HostError, RefusedError
from donjon.hypervisors.hypervisor import Hypervisor
from donjon.model.restore_point import Consistency, Manifest
from donjon.model.vm import Power, Vm

R = TypeVar("R")

_ENDED = (
    "the guest was turned off while it was backed up live, and then backed up offline; "
    "nobody knows whether it ended in order"
)


@dataclass(frozen=True, slots=True)
class Ways:
    """What may be done.

    `live` is None where a guest that runs is not to be backed up live, `offline` where one that is off is not to be
    backed up at all. Restore points of the latter have at least the consistency `least`; `live` sees to it itself.
    """

    hypervisor: Hypervisor
    live: GroupMethod | None
    offline: Method | None
    least: Consistency = Consistency.CRASH

    def back_up(self, name_or_uuid: str, do: Callable[[Vm, Method], R]) -> R:
        """Have a VM backed up the way that suits it; one that is turned off meanwhile is backed up offline at once.

        Raises:
            HostError: there is no such VM, or whatever `do` raises.
            RefusedError: it is off, and that is not what was meant.
        """
        vm = self.hypervisor.find_vm(name_or_uuid)
        if self.live is None or not _is_on(vm):
            return do(vm, self._offline(vm))
        try:
            return do(vm, self.live)
        except GuestEndedError:
            if self.offline is None or not self._is_off(vm):
                raise
        ended = Restrained(self.offline, most=Consistency.CRASH, least=self.least, note=_ENDED)
        return do(self.hypervisor.find_vm(vm.uuid), ended)

    def find_group(self, names: Sequence[str]) -> tuple[list[Vm], GroupMethod]:
        """VMs to be backed up at one moment, and how.

        Raises:
            HostError: one does not exist.
            RefusedError: one does not run, so that it cannot be held at the same moment.
        """
        vms = [self.hypervisor.find_vm(name) for name in names]
        off = [vm.name for vm in vms if not _is_on(vm)]
        if off or self.live is None:
            why = f"{', '.join(off)} is not running" if off else "guests may not be backed up live"
            raise RefusedError(
                f"cannot back up {', '.join(vm.name for vm in vms)} together: {why}",
                hint="start it, or leave it out; without --together each VM is backed up at a moment of its own",
            )
        return vms, self.live

    def _offline(self, vm: Vm) -> Method:
        if self.offline is None:
            raise RefusedError(
                f"cannot back up {vm.name} live: it is {vm.power.value}", hint="leave --method live out, or start it"
            )
        return Restrained(self.offline, least=self.least)

    def _is_off(self, vm: Vm) -> bool:
        try:
            return self.hypervisor.power(vm.uuid) is Power.OFF
        except HostError:
            return False  # it was transient, and is gone


def _is_on(vm: Vm) -> bool:
    return vm.power in (Power.RUNNING, Power.PAUSED) and not vm.is_saved


@dataclass(frozen=True, slots=True)
class Restrained:
    """A method of which less is believed, or more is asked.

    `most` is the consistency its restore points can have, `least` the one they must have; `note` is kept in them.
    """

    method: Method
    most: Consistency = Consistency.OFFLINE
    least: Consistency = Consistency.CRASH
    note: str | None = None

    @property
    def name(self) -> str:
        """As it is kept in restore points."""
        return self.method.name

    @contextmanager
    def capture(self, vm: Vm, since: Manifest | None) -> Iterator[Capture]:
        """See Method."""
        with self.method.capture(vm, since) as capture:
            consistency = min(capture.consistency, self.most)
            if consistency < self.least:
                raise HostError(
                    f"cannot back up {vm.name} as asked: only {consistency.name.lower()} consistency was reached,"
                    f" not {self.least.name.lower()}" + (f": {self.note}" if self.note else ""),
                    hint=f"`--least {consistency.name.lower()}` takes it all the same",
                )
            yield replace(capture, consistency=consistency, notes=(*capture.notes, *filter(None, [self.note])))
