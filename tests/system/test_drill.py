# SPDX-License-Identifier: Apache-2.0
"""A real guest is drilled: what is sound passes, what is not fails, and nothing of it stays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab.guest import create_disk, define, definition, virsh
from lab.guest_kit import GuestKit
from lab.libvirt_host import Host
from tests.system.admin import Admin
from tests.system.live import LiveGuest, admin_of

pytestmark = pytest.mark.system

NAME = "web 01"
KEPT = "/data/vda/first.sha256"
OF_THIS_BOOT = "/proc/sys/kernel/random/boot_id"
EVER_ANOTHER = "/proc/sys/kernel/random/uuid"
DEVICES = """
    <interface type='user'><mac address='52:54:00:11:22:33'/><model type='virtio'/></interface>
    <filesystem type='mount' accessmode='mapped'><source dir='{folder}'/><target dir='share'/></filesystem>
    <graphics type='vnc'><listen type='none'/></graphics>
    <video><model type='vga'/></video>
  </devices>"""


@dataclass(frozen=True)
class Drilled:
    """A VM in a repository, and a place for drills; the VM itself stays, as it would."""

    admin: Admin
    host: Host
    guest: LiveGuest
    place: Path
    report: Any

    def drill(self, *words: str | Path, exit_code: int = 0) -> Any:
        said = self.admin.donjon("drill", NAME, "--directory", self.place, *words, exit_code=exit_code)
        self.nothing_is_left()
        return said["drill"]

    def nothing_is_left(self) -> None:
        assert virsh(self.host.uri, "list", "--all", "--name").split("\n")[0] == NAME
        assert len(virsh(self.host.uri, "list", "--all", "--name").split()) == len(NAME.split())
        assert self.networks() == []
        assert list(self.place.rglob("*")) == []
        assert self.admin.donjon("instant")["instant"] == []
        assert self.admin.owed() == []
        assert list(self.admin.folder.glob("state/instant/*.json")) == []
        assert list(self.admin.folder.glob("state/instant/*.server")) == []

    def networks(self) -> list[str]:
        return [] if self.host.account else virsh(self.host.uri, "net-list", "--all", "--name").split()


@pytest.fixture(scope="module", params=["stock_host", "session_host"])
def drilled(request: pytest.FixtureRequest, guest_kit: GuestKit) -> Iterator[Drilled]:
    host: Host = request.getfixturevalue(request.param)
    folder = host.new_folder(f"drilled-{request.param}")
    image, console = folder / "vda.qcow2", folder / "console"
    create_disk(image, 64, "qcow2")
    host.give(image)
    kit = host.own(guest_kit, folder)
    xml = definition(kit, NAME, {"vda": (image, "qcow2")}, console)
    define(host.uri, xml.replace("\n  </devices>", DEVICES.format(folder=folder)))
    guest = LiveGuest(host.uri, NAME, {"vda": image}, host, kit, console)
    try:
        guest.start("write:first:1")
        admin = admin_of(host, host.new_folder(f"admin-{request.param}"))
        witness = ["--witness", KEPT, "--witness", OF_THIS_BOOT, "--witness", EVER_ANOTHER]
        report = admin.donjon("backup", NAME, *witness)["backups"][0]
        virsh(host.uri, "destroy", NAME)
        yield Drilled(admin, host, guest, host.new_folder(f"drills-{request.param}"), report)
    finally:
        guest.remove()


def outcomes(drill: Any) -> dict[str, bool]:
    return {check["name"]: check["passed"] for check in drill["checks"]}


def test_a_sound_restore_point_passes_and_the_guest_reaches_nothing(drilled: Drilled) -> None:
    before = drilled.guest.disks["vda"].read_bytes()
    alone = "[ -z \"$(ls /sys/class/net | grep -v '^lo$')\" ]" if drilled.host.account else "[ -e /sys/class/net ]"
    drill = drilled.drill(
        "--check-file", KEPT, "--check-script", "cd /data/vda/first && sha256sum -c ../first.sha256",
        "--check-script", "! grep -q share /sys/bus/virtio/devices/*/mount_tag 2>/dev/null",
        "--check-script", alone, "--check-console", "DONJON-GUEST", "--memory", "96",
    )  # fmt: skip
    assert drill["passed"], drill["checks"]
    assert drill["restore_point"] == drilled.report["restore_point"]["id"]
    assert Path(drill["picture"]).read_bytes().startswith(b"\x89PNG")
    assert any("filesystem" in note for note in drill["notes"])
    assert any("network" in note for note in drill["notes"]) == bool(drilled.host.account)
    assert 0 < drill["running_s"] <= drill["ready_s"] <= drill["duration_s"]
    assert drilled.guest.disks["vda"].read_bytes() == before
    (vm,) = drilled.admin.donjon("status", "--fail-if-unproven", "1h")["vms"]
    assert vm["last_proven"]["restore_point"] == drill["restore_point"]


def test_only_what_did_not_change_meanwhile_is_witnessed(drilled: Drilled) -> None:
    notes = " ".join(drilled.report["notes"])
    assert EVER_ANOTHER in notes
    assert KEPT not in notes


def test_a_file_that_is_not_what_it_was_fails(drilled: Drilled) -> None:
    drill = drilled.drill(exit_code=1)
    assert outcomes(drill) == {"agent answers": True, f"file {KEPT}": True, f"file {OF_THIS_BOOT}": False}


def test_a_script_and_a_service_that_fail_are_told(drilled: Drilled) -> None:
    words = ("--check-script", "echo out of order; exit 7", "--check-service", "nginx", "--check-file", KEPT)
    drill = drilled.drill(*words, exit_code=1)
    failed = {check["name"]: check["evidence"] for check in drill["checks"] if not check["passed"]}
    assert failed["script echo out of order; exit 7"] == "exit code 7: out of order"
    assert set(failed) == {"script echo out of order; exit 7", "service nginx"}
    (vm,) = drilled.admin.donjon("status", "--fail-if-unproven", "1h", exit_code=1)["vms"]
    assert vm["failures"]


def test_a_guest_that_does_not_come_up_in_time_fails(drilled: Drilled) -> None:
    drill = drilled.drill("--check-console", "never said", "--boot-timeout", "15", exit_code=1)
    assert outcomes(drill)["console shows 'never said'"] is False
    assert outcomes(drill)[f"file {KEPT}"] is False


@pytest.mark.parametrize(
    "point", ["drill.owed", "drill.grounded", "instant.defined", "instant.settled", "drill.running", "drill.kept"]
)
def test_a_drill_that_is_killed_leaves_nothing(drilled: Drilled, point: str) -> None:
    drilled.admin.dies(point, "drill", NAME, "--directory", drilled.place)
    assert drilled.admin.settles()
    drilled.nothing_is_left()
