# SPDX-License-Identifier: Apache-2.0
"""A real guest runs from the repository: it boots, writes, is hit by all that can go down, and loses nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab import LabError
from lab.agent import ask, wait_for_agent
from lab.guest import create_disk, define, definition, virsh, wait_for
from lab.guest_kit import GuestKit
from lab.libvirt_host import Host
from lab.programs import run
from lab.witness import checked
from tests.system.admin import Admin, Guest, content, digests
from tests.system.live import LiveGuest, admin_of

pytestmark = pytest.mark.system

NAME = "web 01"
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Lost:
    """A VM that is in a repository and nowhere else; `contents` is what its disks held."""

    admin: Admin
    host: Host
    kit: GuestKit
    place: Path
    console: Path
    contents: dict[str, str]

    def begins(self) -> LiveGuest:
        """It runs from the repository."""
        begun = self.admin.donjon("restore", NAME, "--instant", "--directory", self.place)
        assert begun["instant"] == "begun"
        guest = self.guest(begun)
        guest_is_up(guest)
        return guest

    def guest(self, restored: Any) -> LiveGuest:
        """What was restored."""
        disks = {disk["target"]: Path(disk["path"]) for disk in restored["disks"]}
        return LiveGuest(self.host.uri, NAME, disks, self.host, self.kit, self.console)

    def does(self, option: str) -> None:
        """One of the verbs for a VM that runs from a repository."""
        self.admin.donjon("restore", NAME, option)

    def served(self) -> list[bool]:
        """Of all VMs that run from a repository."""
        return [entry["served"] for entry in self.admin.donjon("instant")["instant"]]

    def kills_server(self) -> None:
        """As the kernel does when memory is short."""
        (file,) = (self.admin.folder / "state/instant").glob("*.server")
        os.kill(json.loads(file.read_text())[0], signal.SIGKILL)
        wait_until(lambda: self.served() == [False], "the server lives on")

    def nothing_is_left(self) -> None:
        """Of a restore that was discarded, or died young."""
        assert virsh(self.host.uri, "list", "--all", "--name").strip() == ""
        assert list(self.place.rglob("*")) == []
        assert self.served() == []
        assert self.admin.owed() == []


@contextmanager
def lost_vm(host: Host, kit: GuestKit, folder: Path, number: int) -> Iterator[Lost]:
    """What is restored of it is gone in the end."""
    images = host.new_folder(f"lost-{number}")
    place = host.new_folder(f"instant-{number}")
    disks = {"vda": (images / "vda.qcow2", "qcow2"), "vdb": (images / "vdb.raw", "raw")}
    for image, image_format in disks.values():
        create_disk(image, 64, image_format)
    host.give(*(image for image, _ in disks.values()))
    console = images / "console"
    define(host.uri, definition(host.own(kit, images), NAME, disks, console))
    guest = Guest(host.uri, NAME, {target: image for target, (image, _) in disks.items()})
    guest.run("write:first:3")
    define(host.uri, re.sub(r"donjon\.job=[^\s<]*", "donjon.job=", guest.xml))  # it boots without a job
    admin = admin_of(host, folder)
    admin.donjon("backup", NAME)
    contents = digests(guest.contents())
    guest.remove()
    try:
        yield Lost(admin, host, kit, place, console, contents)
    finally:
        for state in admin.donjon("instant")["instant"]:
            admin.donjon("restore", state["vm_uuid"], "--discard")
        if NAME in virsh(host.uri, "list", "--all", "--name"):
            guest.remove()


@pytest.fixture(params=["host", "stock_host"])
def lost(request: pytest.FixtureRequest, guest_kit: GuestKit, tmp_path: Path) -> Iterator[Lost]:
    with lost_vm(request.getfixturevalue(request.param), guest_kit, tmp_path, time.time_ns()) as found:
        yield found


@pytest.fixture
def lost_here(host: Host, guest_kit: GuestKit, tmp_path: Path) -> Iterator[Lost]:
    with lost_vm(host, guest_kit, tmp_path, time.time_ns()) as found:
        yield found


def test_nothing_is_lost_whatever_goes_down(lost: Lost) -> None:
    guest = lost.begins()
    assert lost.served() == [True]
    assert lost.admin.owed() == []
    assert guest.do("verify")[0].startswith("verified 6 files")

    guest.do("write:second:2", "writer:vda")
    guest.writes_on()
    lost.kills_server()
    run_out_of_cache(guest)
    lost.does("--resume")
    assert guest.state == "running"
    guest.writes_on()

    acked = guest.acked()
    guest.signal_qemu(signal.SIGKILL)
    lost.kills_server()
    lost.does("--resume")
    guest_is_up(guest)
    found = checked(guest.do("check"))["vda"]
    assert found.bad == 0
    assert found.recovered >= acked

    guest.do("writer:vda")
    guest.writes_on()
    lost.does("--finish")
    guest.writes_on()
    assert lost.served() == []
    assert lost.admin.owed() == []
    acked = guest.acked()
    virsh(guest.uri, "destroy", guest.name)
    for image in guest.disks.values():
        run("qemu-img", "check", "-q", "-r", "leaks", image)  # a plug that is pulled leaks clusters
        assert "backing" not in run("qemu-img", "info", image)
    guest.start()
    found = checked(guest.do("check"))["vda"]
    assert found.bad == 0
    assert found.recovered >= acked
    assert guest.do("verify")[0].startswith("verified 10 files")


def test_a_guest_that_is_off_is_finished_byte_for_byte(lost_here: Lost) -> None:
    guest = lost_here.begins()
    virsh(guest.uri, "destroy", guest.name)
    lost_here.does("--finish")
    assert digests({target: content(image) for target, image in guest.disks.items()}) == lost_here.contents
    assert lost_here.served() == []
    guest_is_up_again = guest.run("verify")
    assert any("verified 6 files" in line for line in guest_is_up_again)


def test_a_discarded_guest_leaves_nothing(lost_here: Lost) -> None:
    guest = lost_here.begins()
    guest.do("write:second:1")
    lost_here.does("--discard")
    lost_here.nothing_is_left()
    lost_here.admin.repository_is_sound()


@pytest.mark.parametrize("point", ["instant.files-made", "instant.owed", "instant.defined", "instant.served"])
def test_a_restore_killed_before_the_guest_ran_leaves_nothing(lost_here: Lost, point: str) -> None:
    lost_here.admin.dies(point, "restore", NAME, "--instant", "--directory", lost_here.place)
    assert lost_here.admin.settles()
    lost_here.nothing_is_left()


def test_a_restore_killed_before_it_started_the_guest_can_be_resumed(lost_here: Lost) -> None:
    lost_here.admin.dies("instant.settled", "restore", NAME, "--instant", "--directory", lost_here.place)
    assert lost_here.admin.owed() == []
    assert lost_here.served() == [True]
    lost_here.does("--resume")
    wait_for(lost_here.console, "ready")


@pytest.mark.parametrize("point", ["instant.pulling", "instant.disk-finished", "instant.server-stopped"])
def test_finishing_goes_on_where_it_was_killed(lost_here: Lost, point: str) -> None:
    guest = lost_here.begins()
    lost_here.admin.dies(point, "restore", NAME, "--finish")
    lost_here.does("--finish")
    assert lost_here.served() == []
    assert lost_here.admin.owed() == []
    assert guest.do("verify")[0].startswith("verified 6 files")


def guest_is_up(guest: LiveGuest) -> None:
    wait_for_agent(guest.uri, guest.name)


def run_out_of_cache(guest: LiveGuest) -> None:
    """Unless it is there already, the guest comes to read what its QEMU cannot get it."""
    reading = "echo 3 > /proc/sys/vm/drop_caches; cat /data/*/first/* > /dev/null"
    with suppress(LabError):  # it is paused already
        ask(guest.uri, guest.name, "guest-exec", path="/bin/sh", arg=["-c", reading])
    wait_until(lambda: guest.state == "paused", "the guest does not need its server")


def wait_until(done: Callable[[], bool], failure: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        if time.monotonic() > deadline:
            raise LabError(failure)
        time.sleep(0.2)
