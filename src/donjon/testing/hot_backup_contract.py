# SPDX-License-Identifier: Apache-2.0
"""What every hypervisor's backup jobs and checkpoints must do, as a suite of pytest that its author inherits and runs.

The fixture `guest` gives a guest that is on, with two disks of a few MiB that can be tracked, vda and vdb.
"""

# ruff: noqa: D102  (the name of a test is its sentence)

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import pytest

from donjon.errors import HostError, RefusedError
from donjon.hypervisors.hot_backup import ActiveJob, CheckpointError, DiskJob, HotBackup
from donjon.nbd.client import NbdClient

KIB = 1024
ENDS_S = 20.0
TARGETS = ("vda", "vdb")
FIRST, SECOND = "donjon-test-1", "donjon-test-2"
NOBODY = "99999999-2222-4333-8444-555555555555"


class TestedGuest(Protocol):
    """A guest, and what may happen to it."""

    uuid: str
    folder: Path

    @property
    def host(self) -> HotBackup:
        """The hypervisor that runs it."""

    def write(self, target: str, offset: int, data: bytes) -> None:
        """It writes the same byte all over; length and offset are multiples of 4 KiB."""

    def kill(self) -> None:
        """Its process is killed, and it is started again."""

    def shut_off(self) -> None:
        """It is turned off in a way that leaves its bitmaps sound, and stays off."""

    def start(self) -> None:
        """It is turned on."""

    def forget_checkpoints(self) -> None:
        """The hypervisor forgets its checkpoints, not the bitmaps."""


def begin(guest: TestedGuest, *jobs: tuple[str, str | None], new: str | None = None) -> Path:
    """Begin a job for disks and since when, with a socket to be read from."""
    socket = guest.folder / "socket"
    disks = [DiskJob(target, guest.folder / f"{target} scratch", since) for target, since in jobs]
    guest.host.begin_backup(guest.uuid, disks, socket, new)
    return socket


def back_up(guest: TestedGuest, *jobs: tuple[str, str | None], new: str | None = None) -> None:
    """A job that is begun and ended."""
    guest.host.end_backup(guest.uuid, begin(guest, *jobs, new=new), ENDS_S)


def read(socket: Path, target: str, offset: int, length: int) -> bytes:
    """What a job serves."""
    client = NbdClient.connect_unix(socket, target, ["base:allocation"])
    buffer = bytearray(length)
    client.read_into(offset, memoryview(buffer))
    client.close()
    return bytes(buffer)


def dirty(socket: Path, target: str) -> set[int]:
    """Numbers of the dirty stretches of 64 KiB that a job tells of."""
    client = NbdClient.connect_unix(socket, target, ["base:allocation", f"qemu:dirty-bitmap:backup-{target}"])
    found: set[int] = set()
    for status in client.block_status():
        if status.flags[1]:
            found.update(range(status.offset // (64 * KIB), -(-(status.offset + status.length) // (64 * KIB))))
    client.close()
    return found


def known(guest: TestedGuest) -> dict[str, set[str]]:
    """Checkpoints and their disks."""
    return {found.name: set(found.targets) for found in guest.host.checkpoints(guest.uuid)}


class HotBackupContract:
    """Inherit it, and give it the fixture `guest`."""

    def test_a_job_serves_the_moment_it_began_at(self, guest: TestedGuest) -> None:
        guest.write("vda", 0, b"a" * 64 * KIB)
        socket = begin(guest, ("vda", None), ("vdb", None))
        guest.write("vda", 4 * KIB, b"b" * 4 * KIB)
        assert read(socket, "vda", 0, 16 * KIB) == b"a" * 16 * KIB
        assert read(socket, "vdb", 0, 4 * KIB) == bytes(4 * KIB)
        guest.host.end_backup(guest.uuid, socket, ENDS_S)
        socket = begin(guest, ("vda", None))
        assert read(socket, "vda", 0, 8 * KIB) == b"a" * 4 * KIB + b"b" * 4 * KIB
        guest.host.end_backup(guest.uuid, socket, ENDS_S)

    def test_changes_since_a_checkpoint_are_told_per_disk(self, guest: TestedGuest) -> None:
        back_up(guest, ("vda", None), ("vdb", None), new=FIRST)
        guest.write("vda", 128 * KIB, b"x" * 4 * KIB)
        guest.write("vdb", 0, bytes(64 * KIB))
        socket = begin(guest, ("vda", FIRST), ("vdb", FIRST), new=SECOND)
        guest.write("vda", 512 * KIB, b"y" * 4 * KIB)
        assert dirty(socket, "vda") == {2}
        assert dirty(socket, "vdb") == {0}, "zeros are a change"
        guest.host.end_backup(guest.uuid, socket, ENDS_S)
        socket = begin(guest, ("vda", SECOND), ("vdb", None))
        assert dirty(socket, "vda") == {8}
        guest.host.end_backup(guest.uuid, socket, ENDS_S)
        assert known(guest) == {FIRST: set(TARGETS), SECOND: set(TARGETS)}

    def test_one_job_at_a_time_and_only_its_owner_ends_it(self, guest: TestedGuest) -> None:
        assert guest.host.active_job(guest.uuid) is None
        socket = begin(guest, ("vda", None))
        with pytest.raises(RefusedError, match="another job is active: backup"):
            begin(guest, ("vdb", None))
        guest.host.end_backup(guest.uuid, guest.folder / "another socket", ENDS_S)
        assert guest.host.active_job(guest.uuid) == ActiveJob("backup", str(socket))
        for _ in range(2):
            guest.host.end_backup(guest.uuid, socket, ENDS_S)
            assert guest.host.active_job(guest.uuid) is None
        assert [path for path in guest.folder.iterdir() if "scratch" in path.name] == []

    def test_a_job_that_cannot_be_begun_leaves_nothing(self, guest: TestedGuest) -> None:
        with pytest.raises(CheckpointError):
            begin(guest, ("vda", "unknown"), ("vdb", None), new=FIRST)
        (guest.folder / "vdb scratch").touch()
        with pytest.raises(HostError):
            begin(guest, ("vda", None), ("vdb", None), new=FIRST)
        (guest.folder / "vdb scratch").unlink()
        assert (known(guest), guest.host.active_job(guest.uuid)) == ({}, None)
        assert list(guest.folder.glob("*scratch")) == []
        back_up(guest, ("vda", None), ("vdb", None), new=FIRST)

    def test_a_forgotten_checkpoint_is_adopted_and_used(self, guest: TestedGuest) -> None:
        back_up(guest, ("vda", None), ("vdb", None), new=FIRST)
        guest.write("vdb", 64 * KIB, b"z" * 4 * KIB)
        guest.forget_checkpoints()
        with pytest.raises(CheckpointError):
            begin(guest, ("vdb", FIRST))
        for _ in range(2):
            guest.host.adopt_checkpoint(guest.uuid, FIRST, TARGETS)
            assert known(guest) == {FIRST: set(TARGETS)}
        socket = begin(guest, ("vdb", FIRST))
        assert dirty(socket, "vdb") == {1}
        guest.host.end_backup(guest.uuid, socket, ENDS_S)

    def test_what_a_disk_never_recorded_cannot_be_adopted(self, guest: TestedGuest) -> None:
        back_up(guest, ("vda", None), new=FIRST)
        for name, targets in ((FIRST, TARGETS), ("unknown", ("vda",))):
            with pytest.raises(CheckpointError):
                guest.host.adopt_checkpoint(guest.uuid, name, targets)
        assert known(guest) == {FIRST: {"vda"}}

    def test_a_killed_guest_has_no_sound_checkpoint_and_all_can_be_deleted(self, guest: TestedGuest) -> None:
        back_up(guest, ("vda", None), ("vdb", None), new=FIRST)
        socket = begin(guest, ("vda", FIRST), ("vdb", FIRST), new=SECOND)
        guest.kill()
        guest.host.end_backup(guest.uuid, socket, ENDS_S)
        for name in (FIRST, SECOND):
            with pytest.raises(CheckpointError):
                guest.host.adopt_checkpoint(guest.uuid, name, TARGETS)
            with pytest.raises(CheckpointError):
                begin(guest, ("vda", name))
            guest.host.delete_checkpoint(guest.uuid, name)
        assert known(guest) == {}
        back_up(guest, ("vda", None), ("vdb", None), new=FIRST)

    def test_checkpoints_outlast_a_shutdown(self, guest: TestedGuest) -> None:
        back_up(guest, ("vda", None), new=FIRST)
        guest.shut_off()
        guest.start()
        guest.write("vda", 0, b"n" * 4 * KIB)
        socket = begin(guest, ("vda", FIRST))
        assert dirty(socket, "vda") == {0}
        guest.host.end_backup(guest.uuid, socket, ENDS_S)

    def test_a_guest_that_is_off_is_not_backed_up_but_forgets(self, guest: TestedGuest) -> None:
        back_up(guest, ("vda", None), new=FIRST)
        guest.shut_off()
        with pytest.raises(HostError):
            begin(guest, ("vda", None))
        assert guest.host.active_job(guest.uuid) is None
        guest.host.end_backup(guest.uuid, guest.folder / "socket", ENDS_S)
        for _ in range(2):
            guest.host.delete_checkpoint(guest.uuid, FIRST)
        assert known(guest) == {}
        assert guest.host.disk_errors(guest.uuid) == {}

    def test_what_is_unknown_need_not_be_taken_back(self, guest: TestedGuest) -> None:
        guest.host.end_backup(NOBODY, guest.folder / "socket", ENDS_S)
        guest.host.delete_checkpoint(NOBODY, FIRST)
        with pytest.raises(HostError):
            guest.host.active_job(NOBODY)
