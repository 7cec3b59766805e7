# SPDX-License-Identifier: Apache-2.0
"""Bringing a guest to a standstill, and back to what it was doing, however things go."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

from donjon import trace
from donjon.backup.disks import images_of
from donjon.errors import HostError, RefusedError
from donjon.hypervisors.hypervisor import Hypervisor
from donjon.model.restore_point import Consistency
from donjon.model.vm import Power, Vm
from donjon.state.ledger import Ledger

START_DEBT = "guest.start"
RESUME_DEBT = "guest.resume"

_LATE_SHUTDOWN_S = 30.0
_POLL_S = 0.5


class WhenRunning(Enum):
    """What may be done to a guest that runs."""

    REFUSE = "refuse"
    SHUT_DOWN = "shutdown"
    SUSPEND = "suspend"


@dataclass(frozen=True, slots=True)
class Standstill:
    """A guest that stands still; `hypervisor` is None where nobody can say so."""

    vm: Vm
    hypervisor: Hypervisor | None
    power: Power

    @property
    def consistency(self) -> Consistency:
        """How orderly it came to a standstill. Images of which nobody can say so may be those of a guest that ran."""
        return Consistency.OFFLINE if self.hypervisor is not None and self.power is Power.OFF else Consistency.CRASH

    @property
    def has_images_open(self) -> bool:
        """Whether its QEMU is there and has the images open: then they can be read, but not be given bitmaps."""
        return self.power is Power.PAUSED

    def check_disks(self, targets: Collection[str]) -> None:
        """Do nothing if the VM still has the disks that it was said to have; of its drives only `targets` matter.

        Raises:
            HostError: somebody has changed them.
        """
        if self.hypervisor is None:
            return
        if images_of(self.hypervisor.find_vm(self.vm.uuid), targets) != images_of(self.vm, targets):
            raise HostError(
                f"cannot back up {self.vm.name}: its disks were changed meanwhile",
                hint="try again; a disk attached to a running guest stays only if its definition has it, too",
            )

    def verify(self) -> None:
        """Do nothing if it still does what it did when it came to a standstill.

        Raises:
            HostError: somebody has started it, or let it go on.
        """
        if self.hypervisor is not None and self.hypervisor.power(self.vm.uuid) is not self.power:
            raise HostError(
                f"cannot back up {self.vm.name}: it was started or stopped while its disks were read", hint="try again"
            )


@contextmanager
def standing_still(
    vm: Vm, hypervisor: Hypervisor | None, ledger: Ledger, when_running: WhenRunning, shutdown_timeout_s: float
) -> Iterator[Standstill]:
    """Have the guest stand still while the block runs. One that is off or paused already stays so afterwards.

    Raises:
        RefusedError: it runs, and nothing may be done about that.
        HostError: it cannot be brought to a standstill, or not be let go.
    """
    power = Power.OFF if hypervisor is None else hypervisor.power(vm.uuid)
    if hypervisor is None or power in (Power.OFF, Power.PAUSED):
        yield Standstill(vm, hypervisor, power)
    elif power is Power.UNKNOWN:
        raise RefusedError(
            f"cannot back up {vm.name}: it neither runs nor stands still",
            hint=f"`virsh domstate --reason {vm.name}` says what it does; shut it off, or try again later",
        )
    elif when_running is WhenRunning.SHUT_DOWN:
        with ledger.owing(START_DEBT, uri=hypervisor.uri, uuid=vm.uuid):
            trace.reached("standstill.before-shutdown")
            _shut_down(vm, hypervisor, shutdown_timeout_s)
            trace.reached("standstill.shut-down")
            yield Standstill(vm, hypervisor, Power.OFF)
    elif when_running is WhenRunning.SUSPEND:
        with ledger.owing(RESUME_DEBT, uri=hypervisor.uri, uuid=vm.uuid):
            trace.reached("standstill.before-suspend")
            hypervisor.suspend(vm.uuid)
            trace.reached("standstill.suspended")
            yield Standstill(vm, hypervisor, Power.PAUSED)
    else:
        raise RefusedError(
            f"cannot back up {vm.name}: it is running",
            hint="let it be backed up live, or add --shutdown to shut it down meanwhile, or --suspend to stop it",
        )


def _shut_down(vm: Vm, hypervisor: Hypervisor, timeout_s: float) -> None:
    """A guest that was asked may end though we gave it up: wait a little, so that it is started again."""
    try:
        hypervisor.shut_down(vm.uuid, timeout_s)
    except BaseException:
        deadline_s = time.monotonic() + min(_LATE_SHUTDOWN_S, timeout_s)
        while time.monotonic() < deadline_s and hypervisor.power(vm.uuid) is not Power.OFF:
            time.sleep(_POLL_S)
        raise
