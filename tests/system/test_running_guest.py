# SPDX-License-Identifier: Apache-2.0
"""A running guest is only held still when the operator says so, and runs again afterwards, whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.guest import define, wait_for
from lab.programs import run
from tests.system.admin import Admin, Guest, digests, make_admin

pytestmark = pytest.mark.system

TOO_SMALL_MIB = 4


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """A file system that is full before a backup ends."""
    place.mkdir()
    run("mount", "-t", "tmpfs", "-o", f"size={TOO_SMALL_MIB}m", "tmpfs", place)
    try:
        yield place
    finally:
        run("umount", place)


def test_a_guest_shut_down_for_its_backup_boots_again(admin: Admin, guest: Guest, tmp_path: Path) -> None:
    guest.boot()
    assert "running" in admin.donjon("backup", guest.name, "--method", "offline", exit_code=1)["error"]
    assert guest.state == "running"
    backup = admin.donjon("backup", guest.name, "--shutdown")["backups"][0]
    assert backup["restore_point"]["consistency"] == "offline"
    assert guest.state == "running"
    assert admin.owed() == []
    wait_for(tmp_path / "console", "ready")
    restored = admin.restored(guest.name, tmp_path / "restored")
    guest_off(guest)
    assert digests(restored) == digests(guest.contents())


@pytest.mark.root
def test_a_guest_shut_down_for_a_backup_that_fails_is_started_again(
    libvirt_uri: str, guest: Guest, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "small") as place:
        admin = make_admin(tmp_path, libvirt_uri, repository=place / "repo")
        guest.boot()
        assert "is full" in admin.donjon("backup", guest.name, "--shutdown", exit_code=1)["error"]
        assert guest.state == "running"
        assert admin.owed() == []
        assert admin.donjon("list")["restore_points"] == []
        admin.repository_is_sound()


@pytest.mark.parametrize("point", ["standstill.shut-down", "writer.pack-saved", "backup.committed"])
def test_a_guest_shut_down_for_a_backup_that_is_killed_is_started_by_settle(
    point: str, admin: Admin, guest: Guest
) -> None:
    guest.boot()
    admin.dies(point, "backup", guest.name, "--shutdown")
    assert guest.state == "shut off"
    assert admin.settles()
    assert guest.state == "running"
    admin.repository_is_sound()


def test_a_suspended_guest_goes_on_whatever_happens(admin: Admin, guest: Guest, tmp_path: Path) -> None:
    admin.donjon("backup", guest.name)
    guest.boot()
    backup = admin.donjon("backup", guest.name, "--suspend")["backups"][0]
    assert backup["restore_point"]["consistency"] == "crash"
    assert guest.state == "running"
    assert admin.owed() == []

    broken = admin.repository / "snapshots"
    broken.rename(tmp_path / "aside")
    broken.touch()
    assert admin.donjon("backup", guest.name, "--suspend", exit_code=1)["error"]
    broken.unlink()
    (tmp_path / "aside").rename(broken)
    assert guest.state == "running"
    assert admin.owed() == []

    for point in ("standstill.before-suspend", "standstill.suspended", "writer.before-snapshot", "backup.committed"):
        admin.dies(point, "backup", guest.name, "--suspend")
        assert guest.state == ("running" if point == "standstill.before-suspend" else "paused")
        assert admin.settles()
        assert guest.state == "running"
    admin.repository_is_sound()
    restored = admin.restored(guest.name, tmp_path / "restored")
    guest_off(guest)
    assert digests(restored) == digests(guest.contents())


def test_a_guest_that_does_not_listen_is_left_running(admin: Admin, guest: Guest) -> None:
    define(guest.uri, guest.xml.replace("<acpi/>", "").replace("org.qemu.guest_agent.0", "org.example.nobody.0"))
    guest.boot()
    failure = admin.donjon("backup", guest.name, "--shutdown", "--shutdown-timeout", "3", exit_code=1)
    assert "still running after 3 s" in failure["error"]
    assert guest.state == "running"
    assert admin.donjon("list")["restore_points"] == []


def guest_off(guest: Guest) -> None:
    """Pull its plug: it has not written since it booted."""
    run("virsh", "--connect", guest.uri, "destroy", guest.name)
