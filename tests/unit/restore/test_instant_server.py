# SPDX-License-Identifier: Apache-2.0
"""The server of a VM's disks outlives the command that starts it, and ends when it is told to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from donjon.errors import HostError
from donjon.repository import lock
from donjon.repository.stores.local import LocalStore
from donjon.restore.instant_state import InstantState, InstantStates, make_socket_folder, remove_socket_folder
from donjon.restore.server_process import ServerProcesses
from tests.unit.backup.site import UUID, Site, disk, machine, new_qcow2, qemu, truth


class Served(Site):
    """A VM in a repository on disk, and what is known of its instant restore."""

    def __init__(self, folder: Path) -> None:
        image = new_qcow2(folder)
        super().__init__(machine(disk("vda", image)), store=LocalStore(folder / "repo"))
        self.content = truth(image)
        self.states = InstantStates(folder / "state")
        self.servers = ServerProcesses(self.states)
        self.state = InstantState(
            vm_uuid=UUID,
            vm_name="web01",
            uri="fake:///default",
            repository=self.repository.store.location,
            repository_id=self.repository.config.id,
            point=self.back_up().restore_point,
            begun_at=datetime.now(UTC),
            folder=str(folder / "socket"),
            disks=(),
            files=(),
            definition="",
        )
        self.states.save(self.state)
        make_socket_folder(Path(self.state.folder), 0, 0)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    found = Served(tmp_path)
    yield found
    found.servers.stop(UUID)


@pytest.mark.root
def test_it_serves_until_it_is_stopped_and_keeps_a_lock(served: Served, tmp_path: Path) -> None:
    assert served.states.load(UUID) == served.state
    assert not served.servers.is_serving(UUID)
    served.servers.start(served.state, served.repository)
    assert ServerProcesses(served.states).is_serving(UUID)
    address = f"nbd+unix:///vda?socket={served.state.socket}"
    qemu("qemu-img", "convert", "-f", "raw", "-O", "raw", address, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == served.content
    assert len(list(lock.load_locks(served.repository.files))) == 1

    served.state.socket.rename(tmp_path / "aside")
    assert not served.servers.is_serving(UUID)
    served.servers.start(served.state, served.repository)
    assert served.servers.is_serving(UUID)
    qemu("qemu-img", "convert", "-f", "raw", "-O", "raw", address, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == served.content
    assert len(list(lock.load_locks(served.repository.files))) == 1

    served.servers.stop(UUID)
    assert not served.servers.is_serving(UUID)
    assert list(lock.load_locks(served.repository.files)) == []
    remove_socket_folder(Path(served.state.folder))
    assert not Path(served.state.folder).exists()


@pytest.mark.root
def test_why_it_cannot_serve_is_said_in_its_own_words(served: Served, tmp_path: Path) -> None:
    elsewhere = replace(served.state, vm_uuid=UUID.replace("6", "7"))
    with pytest.raises(HostError, match="no instant restore of it is known"):
        served.servers.start(elsewhere, served.repository)
