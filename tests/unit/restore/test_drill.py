# SPDX-License-Identifier: Apache-2.0
"""A drill proves a restore point or says why not; whatever happens, all that is left of it is its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from donjon import trace
from donjon.errors import ConfigError, HostError, IntegrityError, RefusedError
from donjon.hypervisors.agent import Executed
from donjon.hypervisors.definition import parse_definition
from donjon.model.restore_point import RestorePoint
from donjon.model.vm import Power, Vm
from donjon.restore.drill import Drill, DrillOptions
from donjon.restore.drill_checks import Wanted
from donjon.restore.instant_state import InstantStates
from donjon.state.drills import CheckResult, DrillResult, Drills
from donjon.state.ledger import Ledger
from donjon.testing.live_disks import SCREEN
from donjon.wiring import undoers
from tests.unit.backup.site import UUID
from tests.unit.restore.test_instant import Host, Threads
from tests.unit.restore.test_whole_vm import House

DEVICES = """<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <video><model type='vga'/></video>
    <hostdev mode='subsystem' type='pci'/>
  </devices>"""
SCRIPT = ("/bin/sh", "-s")
POINTS = (
    *("drill.owed", "drill.grounded", "instant.files-made", "instant.defined", "instant.settled", "instant.started"),
    *("drill.running", "drill.up", "drill.checked", "drill.kept"),
)


class Villa(House):
    """Its VM has an agent, a screen, and a device of the host."""

    def vm(self, name: str) -> Vm:
        text = super().vm(name).definition
        assert text
        devices = text.replace("</devices>", DEVICES)
        return parse_definition(devices, "fakehost", power=Power.OFF, tpm_root=str(self.tpm_root))


class Guests(Host):
    """Each new one answers as told; `programs` is what its agent can run, `definitions` what was ever defined."""

    def __init__(self, original: Vm) -> None:
        super().__init__([replace(original, power=Power.RUNNING)])
        self.programs: dict[tuple[str, ...], Executed] = {}
        self.answers = True
        self.definitions: list[str] = []
        self.networks_ever: list[str] = []

    def define(self, definition: str) -> Vm:
        self.definitions.append(definition)
        vm = super().define(definition)
        self.agent(vm.uuid).programs = self.programs
        self.agent(vm.uuid).present = self.answers
        return vm

    def create_isolated_network(self, name: str) -> None:
        super().create_isolated_network(name)
        self.networks_ever.append(name)


class OrdinaryGuests(Guests):
    def create_isolated_network(self, name: str) -> None:
        raise RefusedError(f"cannot create the network {name!r}: no")


class Yard:
    """Where drills are held, beside the original, which runs."""

    def __init__(self, villa: Villa, folder: Path) -> None:
        self.villa = villa
        self.place = folder / "place"
        self.place.mkdir()
        self.host = Guests(villa.vm("web01"))
        self.host.tpm_root = folder / "tpm"
        self.states = InstantStates(folder / "instant")
        self.servers = Threads()
        self.drills = Drills(folder / "drills")
        self.ledger = Ledger(":memory:", undoers(lambda _: nullcontext(self.host)))

    @property
    def point(self) -> RestorePoint:
        (point,) = self.villa.points()
        return point

    def hold(self, wanted: Wanted | None = None, *, memory_mib: int | None = None) -> DrillResult:
        drill = Drill(self.host, self.states, self.servers, self.drills, self.ledger, poll_s=0.01)
        options = DrillOptions(wanted or Wanted(), self.place, boot_timeout_s=0.3, memory_mib=memory_mib)
        return drill.hold(self.villa.repository, self.point, options)

    def stop_servers(self) -> None:
        """As undoing does with processes."""
        for uuid in list(self.servers._running):
            self.servers.stop(uuid)

    def nothing_is_left(self) -> None:
        assert list(self.host.tpm_root.glob("*")) == []
        assert [vm.uuid for vm in self.host.list_vms()] == [UUID]
        assert self.host.power(UUID) is Power.RUNNING
        assert list(self.place.rglob("*")) == []
        assert self.host.networks == set()
        assert self.states.list() == []
        assert self.ledger.debts() == []


@pytest.fixture(scope="module")
def villa(tmp_path_factory: pytest.TempPathFactory) -> Villa:
    return Villa(tmp_path_factory.mktemp("villa"))


@pytest.fixture
def yard(villa: Villa) -> Iterator[Yard]:
    with TemporaryDirectory(prefix="d-") as folder:  # a short path, for the sockets
        yard = Yard(villa, Path(folder))
        yield yard
        yard.stop_servers()


def test_a_restore_point_is_proven_and_nothing_is_left(yard: Yard) -> None:
    result = yard.hold()
    assert result.passed
    assert result.checks == (CheckResult("agent answers", True, "it answers"),)
    assert (result.vm_uuid, result.vm_name, result.point) == (UUID, "web01", yard.point.id)
    assert result.running_s is not None
    assert result.ready_s is not None
    assert result.picture
    assert Path(result.picture).read_bytes() == SCREEN
    assert yard.drills.list() == [result]
    yard.nothing_is_left()


def test_the_guest_is_another_one_that_reaches_nothing(yard: Yard) -> None:
    result = yard.hold(memory_mib=64)
    (definition,) = yard.host.definitions
    assert UUID not in definition
    assert "52:54:00:11:22:33" not in definition
    assert str(yard.villa.folder) not in definition
    assert "<name>web01-drill-" in definition
    assert "hostdev" not in definition
    assert f"network='{yard.host.networks_ever[0]}'" in definition
    assert "removed: hostdev (pci)" in result.notes


def test_who_can_have_no_network_gets_no_interface(yard: Yard) -> None:
    yard.host = OrdinaryGuests(yard.villa.vm("web01"))
    result = yard.hold()
    assert result.passed
    assert "<interface" not in yard.host.definitions[0]
    assert any("network interfaces" in note for note in result.notes)


def test_a_check_that_fails_is_kept_as_such(yard: Yard) -> None:
    yard.host.programs[SCRIPT] = Executed(7, b"", b"out of order\n")
    result = yard.hold(Wanted(scripts={"smoke": b"..."}))
    assert not result.passed
    assert result.checks[1] == CheckResult("script smoke", False, "exit code 7: out of order")
    assert yard.drills.list() == [result]
    yard.nothing_is_left()


def test_a_guest_that_does_not_come_up_fails_and_nothing_more_is_tried(yard: Yard) -> None:
    yard.host.answers = False
    result = yard.hold(Wanted(scripts={"smoke": b"..."}))
    assert [check.passed for check in result.checks] == [False, False]
    assert "not tried" in result.checks[1].evidence
    assert result.ready_s is None
    assert result.picture
    yard.nothing_is_left()


def test_a_guest_that_cannot_start_is_an_error_and_a_failed_drill(yard: Yard) -> None:
    class Stubborn(Guests):
        def start(self, uuid: str) -> None:
            raise HostError("cannot start it: no")

    yard.host = Stubborn(yard.villa.vm("web01"))
    with pytest.raises(HostError, match="no"):
        yard.hold()
    (kept,) = yard.drills.list()
    assert kept.checks == (CheckResult("guest starts", False, "cannot start it: no"),)
    yard.nothing_is_left()


def test_a_drill_in_which_nothing_could_fail_is_refused_before_anything_is_made(yard: Yard, tmp_path: Path) -> None:
    lonely = House(tmp_path)
    with pytest.raises(ConfigError, match="nothing would be checked"):
        Drill(yard.host, yard.states, yard.servers, yard.drills, yard.ledger).hold(
            lonely.repository, lonely.points()[0], DrillOptions(directory=yard.place)
        )
    assert yard.drills.list() == []
    yard.nothing_is_left()


def test_a_directory_that_is_not_there_is_named(yard: Yard) -> None:
    yard.place.rmdir()
    with pytest.raises(ConfigError, match="no such directory"):
        yard.hold()
    yard.place.mkdir()
    yard.nothing_is_left()


@pytest.mark.parametrize("point", POINTS)
def test_what_interrupts_a_drill_leaves_nothing(yard: Yard, point: str) -> None:
    with pytest.raises(IntegrityError, match="interrupted"), trace.listening(damaged_at(point)):
        yard.hold()
    yard.nothing_is_left()


def test_what_cannot_be_removed_is_owed_and_the_result_kept(yard: Yard) -> None:
    class Clinging(Guests):
        clings = True

        def delete_network(self, name: str) -> None:
            if self.clings:
                raise HostError("cannot delete the network: no")
            super().delete_network(name)

    host = yard.host = Clinging(yard.villa.vm("web01"))
    with pytest.raises(HostError, match="cannot undo"):
        yard.hold()
    assert [result.passed for result in yard.drills.list()] == [True]
    assert [debt.kind for debt in yard.ledger.debts()] == ["restore.drill"]
    host.clings = False
    assert yard.ledger.settle() == []
    yard.nothing_is_left()


def damaged_at(point: str) -> Callable[[str], None]:
    def listen(reached: str) -> None:
        if reached == point:
            raise IntegrityError("interrupted")

    return listen
