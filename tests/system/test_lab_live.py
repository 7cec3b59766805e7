# SPDX-License-Identifier: Apache-2.0
"""The lab is a fair witness of live backups: its guests say what is durable, and its checks find what is not there."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import pytest

from lab import LabError
from lab.agent import ask, wait_for_agent
from lab.guest import BLOCK_SIZE, virsh
from lab.hosts import migrate
from lab.libvirt_host import NOBODY, Host
from lab.programs import run
from lab.witness import DATABASE, Found, acked_before_freeze, examine
from tests.system.live import LiveGuest, LiveGuests

pytestmark = pytest.mark.system

WRITERS = ("vda", DATABASE)


def frozen_copy(guest: LiveGuest, folder: Path) -> Mapping[str, Path]:
    """The images as they are while the guest is frozen."""
    folder.mkdir()
    assert ask(guest.uri, guest.name, "guest-fsfreeze-freeze") == 2
    try:
        assert guest.is_frozen
        return {target: Path(shutil.copy2(image, folder)) for target, image in guest.disks.items()}
    finally:
        ask(guest.uri, guest.name, "guest-fsfreeze-thaw")


def test_a_copy_of_a_frozen_guest_has_all_that_was_acknowledged_and_nothing_of_later(
    live_guest: LiveGuest, tmp_path: Path
) -> None:
    images = frozen_copy(live_guest, tmp_path / "copy")
    later = {writer: live_guest.writes_on(writer) for writer in WRITERS}
    found = examine(live_guest.host, live_guest.kit, images)
    for writer in WRITERS:
        assert found[writer].bad == 0
        assert acked_before_freeze(live_guest.console, writer) <= found[writer].recovered < later[writer]


def test_the_check_notices_a_lost_block(idle_guest: LiveGuest, tmp_path: Path) -> None:
    idle_guest.do("writer:vdb")
    idle_guest.writes_on("vdb")
    image = frozen_copy(idle_guest, tmp_path / "copy")["vdb"]
    whole = examine(idle_guest.host, idle_guest.kit, {"vda": image})["vda"]
    blocks = map(int, run("debugfs", "-R", "blocks /writer/slots", image).split())
    with image.open("r+b") as disk:
        damaged = next(block for block in blocks if _has_data(disk, block))
        disk.seek(damaged * BLOCK_SIZE)
        disk.write(bytes(BLOCK_SIZE))
    assert whole.bad == 0
    assert examine(idle_guest.host, idle_guest.kit, {"vda": image})["vda"] == Found(whole.recovered, 1)


def test_a_guest_whose_qemu_is_killed_has_kept_what_it_acknowledged(live_guest: LiveGuest) -> None:
    live_guest.signal_qemu(signal.SIGKILL)
    found = examine(live_guest.host, live_guest.kit, live_guest.disks)
    for writer in WRITERS:
        assert found[writer].bad == 0
        assert found[writer].recovered >= live_guest.acked(writer)
    before = live_guest.acked()
    live_guest.start("writer:vda")
    assert live_guest.writes_on() > before


def test_a_flushing_hook_leaves_nothing_in_the_log_of_the_database(live_guest: LiveGuest, tmp_path: Path) -> None:
    live_guest.do("hook:flush")
    found = examine(live_guest.host, live_guest.kit, frozen_copy(live_guest, tmp_path / "copy"))
    assert (found[DATABASE].bad, found[DATABASE].log_size) == (0, 0)
    live_guest.writes_on(DATABASE)


def test_a_hook_can_fail_or_take_long(idle_guest: LiveGuest) -> None:
    idle_guest.do("hook:fail")
    with pytest.raises(LabError, match="hook has failed"):
        ask(idle_guest.uri, idle_guest.name, "guest-fsfreeze-freeze")
    assert not idle_guest.is_frozen
    idle_guest.do("hook:sleep:2")
    begun = time.monotonic()
    ask(idle_guest.uri, idle_guest.name, "guest-fsfreeze-freeze")
    assert time.monotonic() - begun >= 2
    assert idle_guest.is_frozen
    ask(idle_guest.uri, idle_guest.name, "guest-fsfreeze-thaw")
    assert not idle_guest.is_frozen


@pytest.mark.parametrize("kind", ["host", "stock_host", "session_host"])
def test_guests_go_on_when_libvirtd_is_killed(
    kind: str, live_guests: LiveGuests, request: pytest.FixtureRequest
) -> None:
    host: Host = request.getfixturevalue(kind)
    with live_guests.running(host) as guest:
        guest.do("writer:vda")
        host.kill_libvirtd()
        guest.writes_on()
        host.start_libvirtd()
        assert guest.state == "running"
        wait_for_agent(guest.uri, guest.name)
        guest.do("pause", "resume")
        guest.writes_on()


@pytest.mark.root
def test_qemu_runs_as_whom_the_host_says(stock_host: Host, session_host: Host, live_guests: LiveGuests) -> None:
    with live_guests.running(stock_host) as guest:
        owner = Path(f"/proc/{stock_host.qemu_pid(guest.name)}").owner()
        assert (owner, guest.disks["vda"].owner()) == ("libvirt-qemu", "libvirt-qemu")
    with live_guests.running(session_host) as guest:
        assert Path(f"/proc/{session_host.qemu_pid(guest.name)}").stat().st_uid == NOBODY.uid


def test_a_guest_forgets_the_one_before_it(host: Host, live_guests: LiveGuests) -> None:
    with live_guests.running(host) as guest:
        assert guest.do("write:first:1:vda", "verify")[0] == "wrote first: 1 files"
    with live_guests.running(host) as guest, pytest.raises(LabError, match="0 of 0 files"):
        guest.do("verify")


@pytest.mark.root
def test_a_guest_migrates_while_it_writes(connected_hosts: tuple[Host, Host], live_guests: LiveGuests) -> None:
    here, there = connected_hosts
    with live_guests.running(here) as guest:
        guest.do("writer:vda")
        guest.writes_on()
        migrate(guest.name, here, there)
        assert virsh(there.uri, "domstate", guest.name).strip() == "running"
        guest.writes_on()
        with pytest.raises(LabError, match="failed to get domain"):
            virsh(here.uri, "domstate", guest.name)
        migrate(guest.name, there, here)
        guest.writes_on()


def _has_data(disk: BinaryIO, block: int) -> bool:
    """Rather than zeros, or a part of ext4's tree of extents (which begins with a magic number)."""
    disk.seek(block * BLOCK_SIZE)
    content = disk.read(BLOCK_SIZE)
    return any(content) and not content.startswith(b"\x0a\xf3")
