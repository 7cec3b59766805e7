# SPDX-License-Identifier: Apache-2.0
"""A VM runs from the repository; nothing its guest writes is lost, and nothing is left when it is over."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from donjon import trace
from donjon.errors import ConfigError, HostError, RefusedError
from donjon.model.progress import NoProgress
from donjon.model.vm import Power
from donjon.nbd.server import NbdServer
from donjon.repository.repository import Repository
from donjon.restore.instant import INSTANT_DEBT, InstantRestore
from donjon.restore.instant_state import (
    SOCKET,
    InstantState,
    InstantStates,
    make_socket_folder,
    remove_socket_folder,
    socket_folder,
)
from donjon.restore.overlay import flatten, needs_server
from donjon.restore.serving import opened_exports
from donjon.restore.whole_vm import RestoreOptions
from donjon.restore_points import load_manifest
from donjon.state.ledger import Ledger
from donjon.testing.hypervisor import FakeHypervisor
from donjon.wiring import undoers
from tests.unit.backup.site import MIB, UUID, qemu, qemu_io, truth
from tests.unit.restore.test_whole_vm import House

WRITTEN = b"\x2a" * 65536


class Host(FakeHypervisor):
    """Its guests' disks are real images, and so is what is pulled into them."""

    def begin_pull(self, uuid: str, target: str) -> None:
        super().begin_pull(uuid, target)
        (source,) = [disk.source for disk in self.find_vm(uuid).disks if disk.target == target]
        assert source
        flatten(Path(source))


class Threads:
    """Servers in this process."""

    def __init__(self) -> None:
        self._running: dict[str, ExitStack] = {}

    def is_serving(self, vm_uuid: str) -> bool:
        return vm_uuid in self._running

    def start(self, state: InstantState, repository: Repository) -> None:
        with ExitStack() as held:
            disks = load_manifest(repository, state.point).disks
            exports = held.enter_context(opened_exports(repository, state.point, disks))
            held.enter_context(NbdServer(exports).serving_unix(state.socket))
            self._running[state.vm_uuid] = held.pop_all()

    def stop(self, vm_uuid: str) -> None:
        if held := self._running.pop(vm_uuid, None):
            held.close()


class Inn:
    """The house's VM is lost, and a host is there for another one."""

    def __init__(self, house: House, folder: Path) -> None:
        self.folder = folder
        self.lost = house
        self.repository = house.repository
        self.disks = house.disks
        self.place = folder / "images"
        self.states = InstantStates(folder / "state")
        self.servers = Threads()
        self.host = Host()
        known = undoers(lambda _: nullcontext(self.host))
        self.ledger = Ledger(":memory:", {**known, INSTANT_DEBT: self._undo})

    def _undo(self, uri: str, uuid: str, states: str) -> None:
        assert (uri, states) == (self.host.uri, str(self.states.directory))
        self.instant.undo(uuid)

    @property
    def instant(self) -> InstantRestore:
        return InstantRestore(self.host, self.states, self.servers, poll_s=0.01)

    def begin(self, **options: Any) -> InstantState:
        chosen = RestoreOptions(self.place, tpm_root=self.place / "tpm", **options)
        (point,) = self.lost.points()
        return self.instant.begin(self.repository, point, self.ledger, chosen)[0]

    def finish(self, state: InstantState) -> None:
        self.instant.finish(self.repository, state, NoProgress())

    def found(self, state: InstantState) -> dict[str, bytes]:
        """What a guest reads from its disks."""
        sizes = {target: len(content) for target, content in self.disks.items()}
        return {disk.target: truth(Path(disk.overlay))[: sizes[disk.target]] for disk in state.disks}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    return House(tmp_path_factory.mktemp("house"))


@pytest.fixture
def inn(house: House, tmp_path: Path) -> Iterator[Inn]:
    inn = Inn(house, tmp_path)
    yield inn
    for state in inn.states.list() if inn.states.directory.exists() else []:
        inn.servers.stop(state.vm_uuid)


def write(state: InstantState) -> None:
    """The guest writes to vda."""
    qemu_io(Path(state.disks[0].overlay), f"write -P {WRITTEN[0]} {MIB} {len(WRITTEN)}")


def with_written(content: bytes) -> bytes:
    return content[:MIB] + WRITTEN + content[MIB + len(WRITTEN) :]


def test_the_guest_runs_and_reads_every_byte_of_its_disks(inn: Inn) -> None:
    state = inn.begin()
    (vm,) = inn.host.list_vms()
    assert (vm.name, vm.uuid, vm.power) == ("web01", UUID, Power.RUNNING)
    assert {disk.target: disk.source for disk in vm.disks if disk.source} == {
        disk.target: disk.overlay for disk in state.disks
    }
    assert inn.found(state) == inn.disks
    assert inn.ledger.debts() == []
    assert inn.states.list() == [state]
    assert (inn.place / "web01-kernel").read_bytes() == (inn.lost.folder / "vmlinuz").read_bytes()


def test_an_error_of_a_disk_pauses_the_guest(inn: Inn) -> None:
    inn.begin()
    (vm,) = inn.host.list_vms()
    assert vm.definition
    assert vm.definition.count("error_policy='stop' rerror_policy='stop'") == len(inn.disks)


def test_only_the_guests_process_reaches_the_socket(inn: Inn) -> None:
    state = inn.begin()
    assert Path(state.folder).stat().st_mode & 0o777 == 0o700
    assert state.socket.stat().st_mode & 0o777 == 0o600


def test_another_one_runs_beside_the_original(inn: Inn) -> None:
    first = inn.begin()
    with pytest.raises(RefusedError):
        inn.begin()
    second = inn.begin(name="web01-now")
    assert {first.vm_uuid, second.vm_uuid} == {vm.uuid for vm in inn.host.list_vms()}
    assert inn.states.find("web01-now") == second
    write(first)
    assert inn.found(second) == inn.disks


def test_what_was_written_is_there_when_the_server_is_back(inn: Inn) -> None:
    state = inn.begin()
    write(state)
    inn.servers.stop(UUID)
    inn.host.suspend(UUID)
    inn.instant.resume(inn.repository, state)
    assert inn.host.power(UUID) is Power.RUNNING
    assert inn.found(state)["vda"] == with_written(inn.disks["vda"])


@pytest.mark.parametrize("power", [Power.OFF, Power.RUNNING])
def test_a_finished_disk_needs_nobody(inn: Inn, power: Power) -> None:
    state = inn.begin()
    write(state)
    if power is Power.OFF:
        inn.host.destroy(UUID)
    inn.finish(state)
    assert not inn.servers.is_serving(UUID)
    assert not Path(state.folder).exists()
    assert inn.states.list() == []
    assert inn.ledger.debts() == []
    assert inn.found(state) == {**inn.disks, "vda": with_written(inn.disks["vda"])}
    assert inn.host.power(UUID) is power
    for disk in state.disks:
        assert "backing-filename" not in json.loads(qemu("qemu-img", "info", "--output=json", disk.overlay))


@pytest.mark.parametrize("point", ["instant.pulling", "instant.disk-finished", "instant.server-stopped"])
def test_what_interrupts_finishing_does_no_harm(inn: Inn, point: str) -> None:
    state = inn.begin()
    write(state)
    with pytest.raises(HostError, match="interrupted"), trace.listening(failing_at(point)):
        inn.finish(state)
    assert inn.states.find("web01") == state
    inn.finish(state)
    assert inn.found(state) == {**inn.disks, "vda": with_written(inn.disks["vda"])}
    assert inn.states.list() == []


@pytest.mark.parametrize("point", ["instant.undefined", "instant.files-removed", None])
def test_discarding_leaves_nothing_even_if_interrupted(inn: Inn, point: str | None) -> None:
    state = inn.begin()
    write(state)
    if point:
        with pytest.raises(HostError, match="interrupted"), trace.listening(failing_at(point)):
            inn.instant.discard(state)
    inn.instant.discard(state)
    nothing_but_folders_is_left(inn)


@pytest.mark.parametrize("point", ["instant.files-made", "instant.owed", "instant.defined", "instant.served"])
def test_what_fails_while_it_begins_leaves_nothing(inn: Inn, point: str) -> None:
    with pytest.raises(HostError, match="interrupted"), trace.listening(failing_at(point)):
        inn.begin()
    nothing_but_folders_is_left(inn)


def test_a_guest_that_cannot_start_leaves_nothing(inn: Inn) -> None:
    class Stubborn(Host):
        def start(self, uuid: str) -> None:
            raise HostError("cannot start it: no")

    inn.host = Stubborn()
    with pytest.raises(HostError, match="no"):
        inn.begin()
    nothing_but_folders_is_left(inn)


def test_files_of_others_stay(inn: Inn) -> None:
    inn.place.mkdir()
    (inn.place / "web01-vdb.qcow2").write_bytes(b"precious")
    with pytest.raises(RefusedError):
        inn.begin()
    assert [path.name for path in inn.place.iterdir()] == ["web01-vdb.qcow2"]
    (inn.place / "web01-vdb.qcow2").unlink()
    state = inn.begin()
    overlay = Path(state.disks[1].overlay)
    overlay.rename(inn.place / "aside")
    overlay.write_bytes(b"precious")
    inn.instant.discard(state)
    assert overlay.read_bytes() == b"precious"


def test_a_vm_with_other_disks_is_not_discarded(inn: Inn) -> None:
    state = inn.begin()
    (vm,) = inn.host.list_vms()
    inn.host.change(type(vm)(vm.uuid, vm.name, vm.host, vm.power, vm.disks[1:]))
    with pytest.raises(RefusedError, match="other disks"):
        inn.instant.discard(state)
    assert inn.host.list_vms()
    assert Path(state.disks[0].overlay).exists()


def test_a_guest_that_writes_to_an_image_over_ours_is_not_brought_over(inn: Inn) -> None:
    state = inn.begin()
    (vm,) = inn.host.list_vms()
    snapshot = replace(vm.disks[0], source=f"{vm.disks[0].source}.snapshot")
    inn.host.change(replace(vm, disks=(snapshot, *vm.disks[1:])))
    with pytest.raises(RefusedError, match=r"disk vda of web01 .* not on .*web01-vda.qcow2 any more") as error:
        inn.finish(state)
    assert "snapshots" in (error.value.hint or "")
    inn.host.change(vm)
    inn.finish(state)
    assert inn.found(state) == inn.disks


def test_a_disk_that_does_not_come_over_is_told_and_kept(inn: Inn) -> None:
    class Idle(Host):
        def begin_pull(self, uuid: str, target: str) -> None:
            """It fails at once."""

    inn.host = Idle()
    state = inn.begin()
    with pytest.raises(HostError, match="cannot bring disk vda"):
        inn.finish(state)
    assert inn.servers.is_serving(UUID)
    assert needs_server(Path(state.disks[0].overlay))
    assert inn.found(state) == inn.disks


def test_what_a_killed_command_had_half_made_is_removed_with_its_lock(inn: Inn) -> None:
    state = inn.begin()
    inn.states.save(replace(state, settled=False))
    assert list(inn.states.directory.glob("*.lock"))
    inn.instant.undo(UUID)
    nothing_but_folders_is_left(inn)
    assert list(inn.states.directory.iterdir()) == []


def test_two_commands_do_not_work_on_one_vm(inn: Inn) -> None:
    state = inn.begin()
    with inn.states.alone(UUID), pytest.raises(RefusedError, match="another donjon"):
        inn.finish(state)


def test_a_vm_that_does_not_run_from_a_repository_is_not_found(inn: Inn) -> None:
    inn.begin()
    with pytest.raises(ConfigError) as error:
        inn.states.find("web02")
    assert "web01" in (error.value.hint or "")


def test_a_state_that_cannot_be_read_is_named(inn: Inn) -> None:
    inn.begin()
    inn.servers.stop(UUID)
    state = inn.states.directory / f"{UUID}.json"
    state.write_text("{")
    with pytest.raises(HostError, match=UUID):
        inn.states.list()
    state.unlink()


def test_a_path_too_long_for_a_socket_is_refused_before_anything_is_made(inn: Inn) -> None:
    inn.place = inn.folder / ("x" * 100)
    with pytest.raises(ConfigError, match="too long"):
        inn.begin()
    assert not inn.place.exists()
    assert len(os.fsencode(socket_folder(Path("/srv"), UUID))) < 30


def test_every_vm_has_a_socket_folder_of_its_own() -> None:
    assert socket_folder(Path("/srv"), UUID) != socket_folder(Path("/srv"), UUID[:-1] + "f")


def test_a_socket_folder_that_others_could_enter_is_closed(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o777)
    make_socket_folder(folder, os.geteuid(), os.getegid())
    assert folder.stat().st_mode & 0o7777 == 0o700


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_is_no_folder_is_not_taken_for_that_of_a_socket(tmp_path: Path, kind: str) -> None:
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "folder"
    elsewhere.mkdir(mode=0o755)
    if kind == "link":
        folder.symlink_to(elsewhere)
    else:
        folder.touch()
    with pytest.raises(HostError, match=f"cannot make directory {folder}"):
        make_socket_folder(folder, os.geteuid(), os.getegid())
    assert elsewhere.stat().st_mode & 0o777 == 0o755


def test_a_socket_goes_with_its_server_and_not_before(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    make_socket_folder(folder, os.geteuid(), os.getegid())
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / SOCKET))
        server.listen()
        remove_socket_folder(folder)
        assert (folder / SOCKET).is_socket()
    remove_socket_folder(folder)
    assert not folder.exists()


def failing_at(point: str) -> Callable[[str], None]:
    def listen(reached: str) -> None:
        if reached == point:
            raise HostError("interrupted")

    return listen


def nothing_but_folders_is_left(inn: Inn) -> None:
    assert [path for path in inn.place.rglob("*") if not path.is_dir() or path.name.startswith(".donjon")] == []
    assert inn.host.list_vms() == []
    assert inn.states.list() == []
    assert not inn.servers.is_serving(UUID)
    assert inn.ledger.debts() == []
