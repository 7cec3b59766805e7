# SPDX-License-Identifier: Apache-2.0
"""A host in a folder, on which a process backs up or restores and is killed at the n-th point that it reaches."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from threading import Lock

from donjon.backup.backup import back_up
from donjon.backup.methods.offline import Offline, OfflineOptions, WhenRunning
from donjon.hypervisors.definition import parse_definition
from donjon.model.progress import NoProgress
from donjon.model.vm import Power, Vm
from donjon.repository.repository import Repository
from donjon.repository.stores.local import LocalStore
from donjon.restore.in_place import roll_back
from donjon.restore.whole_vm import RestoreOptions, restore_vm
from donjon.restore_points import survey_restore_points
from donjon.state.ledger import Ledger
from donjon.testing.faults import kill_this_process
from donjon.testing.hypervisor import FakeHypervisor
from donjon.trace import listening
from donjon.wiring import undoers
from tests.unit.backup.site import QUICK
from tests.unit.repository.disks import PASSWORD


class LastingHypervisor(FakeHypervisor):
    """Outlives the process: its VMs are in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        saved = json.loads(file.read_text()) if file.exists() else []
        tpm_root = str(file.parent / "swtpm")
        super().__init__(
            parse_definition(text, "fakehost", power=Power(power), tpm_root=tpm_root) for text, power in saved
        )

    def _set_power(self, vm: Vm, power: Power) -> None:
        super()._set_power(vm, power)
        self._save()

    def define(self, definition: str) -> Vm:
        vm = super().define(definition)
        self._save()
        return vm

    def _save(self) -> None:
        self._file.write_text(json.dumps([(vm.definition, vm.power.value) for vm in self.list_vms()]))


class Folder:
    """The host; opened anew by each process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = LastingHypervisor(folder / "host.json")
        self.repository = Repository.open(LocalStore(folder / "repository"), PASSWORD)
        self.ledger = Ledger(folder / "state" / "ledger", undoers(lambda _: nullcontext(self.host)))

    def back_up(self) -> None:
        options = OfflineOptions(when_running=WhenRunning.SHUT_DOWN)
        method = Offline(self.host, self.ledger, self.repository.config.id, options)
        back_up(self.host.find_vm("web01"), method, self.repository, QUICK, NoProgress())

    def restore(self) -> None:
        options = RestoreOptions(self.folder / "new", name="web02", tpm_root=self.folder / "new" / "tpm")
        point = survey_restore_points(self.repository).points[-1]
        restore_vm(self.repository, point, self.ledger, options, NoProgress(), hypervisor=self.host)

    def roll_back(self) -> None:
        vm = self.host.find_vm("web01")
        self.host.shut_down(vm.uuid, 0)
        point = survey_restore_points(self.repository).points[-1]
        roll_back(self.repository, point, self.ledger, vm, NoProgress(), hypervisor=self.host)


class KillAt:
    """Ends the process when it reaches its n-th point; writes down which points it reached."""

    def __init__(self, number: int, reached: Path) -> None:
        self._left = number
        self._reached = reached
        self._lock = Lock()

    def __call__(self, point: str) -> None:
        with self._lock:
            with self._reached.open("a") as file:
                file.write(f"{point}\n")
            self._left -= 1
            if self._left == 0:
                kill_this_process()


def run(folder: Path, action: str, number: int, reached: Path) -> None:
    """In a process of its own."""
    here = Folder(folder)
    with listening(KillAt(number, reached)):
        getattr(here, action)()
