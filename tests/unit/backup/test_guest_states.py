# SPDX-License-Identifier: Apache-2.0
"""A guest is held still as the operator allows, and does afterwards what it did before, whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from donjon.backup.backup import back_up
from donjon.backup.methods.offline import WhenRunning
from donjon.errors import DonjonError, HostError, RefusedError, StoreError
from donjon.model.progress import NoProgress
from donjon.model.vm import Device, Disk, Power
from donjon.restore_points import load_manifest
from donjon.testing.faults import Faults
from donjon.testing.hypervisor import FakeHypervisor
from donjon.trace import listening
from tests.unit.backup.site import QUICK, Calling, Site, bitmaps, disk, machine, new_qcow2, qemu_io, truth

SHUT_DOWN, SUSPEND = WhenRunning.SHUT_DOWN, WhenRunning.SUSPEND


def site_with(folder: Path, power: Power) -> tuple[Site, Path]:
    image = new_qcow2(folder)
    return Site(machine(disk("vda", image), power=power)), image


def consistency(site: Site) -> str:
    return load_manifest(site.repository, site.points()[-1]).consistency


def test_a_guest_that_is_off_stays_off(tmp_path: Path) -> None:
    site, image = site_with(tmp_path, Power.OFF)
    site.back_up()
    assert (site.power(), consistency(site)) == (Power.OFF, "offline")
    assert site.restored() == truth(image)


def test_a_running_guest_is_refused_with_a_word_on_what_to_do(tmp_path: Path) -> None:
    site, image = site_with(tmp_path, Power.RUNNING)
    with pytest.raises(RefusedError, match="it is running") as refused:
        site.back_up()
    assert "--shutdown" in (refused.value.hint or "")
    assert "--suspend" in (refused.value.hint or "")
    assert (site.power(), site.points(), bitmaps(image)) == (Power.RUNNING, [], set())


def test_a_guest_of_which_nobody_can_say_what_it_does_is_refused(tmp_path: Path) -> None:
    site, _ = site_with(tmp_path, Power.UNKNOWN)
    with pytest.raises(RefusedError, match="neither runs nor stands still"):
        site.back_up(when_running=SHUT_DOWN)


def test_a_guest_is_shut_down_and_started_again(tmp_path: Path) -> None:
    site, image = site_with(tmp_path, Power.RUNNING)
    meanwhile: list[Power] = []
    site.back_up(when_running=SHUT_DOWN, progress=Calling(lambda: meanwhile.append(site.power())))
    assert (meanwhile, site.power(), consistency(site)) == ([Power.OFF], Power.RUNNING, "offline")
    assert bitmaps(image) == {site.checkpoint()}


def test_a_guest_is_suspended_and_goes_on(tmp_path: Path) -> None:
    site, image = site_with(tmp_path, Power.RUNNING)
    meanwhile: list[Power] = []
    site.back_up(when_running=SUSPEND, progress=Calling(lambda: meanwhile.append(site.power())))
    assert (meanwhile, site.power(), consistency(site)) == ([Power.PAUSED], Power.RUNNING, "crash")
    assert (site.checkpoint(), bitmaps(image)) == (None, set())
    assert site.restored() == truth(image)


def test_a_guest_that_was_paused_stays_paused(tmp_path: Path) -> None:
    site, _ = site_with(tmp_path, Power.PAUSED)
    site.back_up(when_running=SHUT_DOWN)
    assert (site.power(), consistency(site)) == (Power.PAUSED, "crash")


def test_bitmaps_of_a_guest_that_was_suspended_are_left_to_the_next_backup(tmp_path: Path) -> None:
    """Its QEMU has the image open: nobody else may change it."""
    site, image = site_with(tmp_path, Power.OFF)
    site.back_up()
    before = bitmaps(image)
    site.host.start(site.host.list_vms()[0].uuid)
    site.back_up(when_running=SUSPEND)
    assert bitmaps(image) == before
    site.back_up(when_running=SHUT_DOWN)
    assert bitmaps(image) == {site.checkpoint()}


def test_a_guest_that_does_not_shut_down_is_left_running(tmp_path: Path) -> None:
    site, _ = site_with(tmp_path, Power.RUNNING)
    site.host.hanging.add(site.host.list_vms()[0].uuid)
    with pytest.raises(HostError, match="still running after 0 s"):
        site.back_up(when_running=SHUT_DOWN, shutdown_timeout_s=0)
    assert (site.power(), site.points(), site.ledger.debts()) == (Power.RUNNING, [], [])


@pytest.mark.parametrize("error", [HostError("cannot wait"), KeyboardInterrupt()], ids=["time-out", "Ctrl-C"])
def test_a_guest_that_shuts_down_too_late_is_started_again(tmp_path: Path, error: BaseException) -> None:
    class Late(FakeHypervisor):
        """Ends when it is asked for a second time how it does."""

        asked = 0

        def shut_down(self, uuid: str, timeout_s: float) -> None:
            self.asked = 1
            raise error

        def power(self, uuid: str) -> Power:
            self.asked += bool(self.asked)
            if self.asked == 3:
                super().shut_down(uuid, 0)
            return super().power(uuid)

    site, _ = site_with(tmp_path, Power.RUNNING)
    site.host = site.hypervisor = Late(site.host.list_vms())
    with pytest.raises(type(error)):
        site.back_up(when_running=SHUT_DOWN, shutdown_timeout_s=5)
    assert site.host.asked == 3
    assert (site.power(), site.ledger.debts()) == (Power.RUNNING, [])


def test_images_of_which_nobody_knows_whether_a_guest_ran_are_as_after_a_power_cut(tmp_path: Path) -> None:
    site, image = site_with(tmp_path, Power.OFF)
    site.hypervisor = None
    site.back_up()
    assert consistency(site) == "crash"
    assert site.restored() == truth(image)


@pytest.mark.parametrize("power", [Power.OFF, Power.RUNNING])
@pytest.mark.parametrize("change", ["another image", "one more disk"])
def test_a_vm_whose_disks_are_not_those_it_was_asked_for_is_refused(tmp_path: Path, power: Power, change: str) -> None:
    site, image = site_with(tmp_path, power)
    (vm,) = site.host.list_vms()
    new = disk("vda" if change == "another image" else "vdb", tmp_path / "other.qcow2")
    kept = () if change == "another image" else vm.disks

    site.host.change(replace(vm, disks=(*kept, new)))
    with pytest.raises(HostError, match="its disks were changed meanwhile") as refused:
        back_up(vm, site.method(when_running=SHUT_DOWN), site.repository, QUICK, NoProgress())
    assert "try again" in (refused.value.hint or "")
    assert (site.power(), site.points(), site.ledger.debts()) == (power, [], [])
    assert bitmaps(image) == set()


def test_another_medium_in_a_drive_that_is_left_out_is_no_other_disk(tmp_path: Path) -> None:
    site, image = site_with(tmp_path, Power.OFF)
    (vm,) = site.host.list_vms()
    drives = [Disk("sda", source, "raw", device=Device.CDROM) for source in (None, str(tmp_path / "new.iso"))]
    site.host.change(replace(vm, disks=(*vm.disks, drives[1])))
    back_up(replace(vm, disks=(*vm.disks, drives[0])), site.method(), site.repository, QUICK, NoProgress())
    assert site.restored() == truth(image)


def fail(error: BaseException) -> Callable[[], None]:
    def raise_error() -> None:
        raise error

    return raise_error


@pytest.mark.parametrize("when_running", [SHUT_DOWN, SUSPEND])
@pytest.mark.parametrize(
    "error", [HostError("no image"), StoreError("no space"), KeyboardInterrupt(), MemoryError()], ids=repr
)
def test_a_guest_goes_on_after_any_failure(tmp_path: Path, when_running: WhenRunning, error: BaseException) -> None:
    site, image = site_with(tmp_path, Power.RUNNING)
    with pytest.raises(type(error)):
        site.back_up(when_running=when_running, progress=Calling(fail(error)))
    assert (site.power(), site.points(), site.ledger.debts()) == (Power.RUNNING, [], [])
    assert bitmaps(image) == set()


@pytest.mark.parametrize(
    ("power", "when_running", "meddle"),
    [
        (Power.OFF, WhenRunning.REFUSE, "start"),
        (Power.RUNNING, SHUT_DOWN, "start"),
        (Power.RUNNING, SUSPEND, "resume"),
        (Power.PAUSED, WhenRunning.REFUSE, "resume"),
    ],
)
def test_a_guest_that_is_started_while_it_is_read_makes_no_restore_point(
    tmp_path: Path, power: Power, when_running: WhenRunning, meddle: str
) -> None:
    site, image = site_with(tmp_path, power)
    uuid = site.host.list_vms()[0].uuid
    with pytest.raises(HostError, match="started or stopped while its disks were read"):
        site.back_up(when_running=when_running, progress=Calling(lambda: getattr(site.host, meddle)(uuid)))
    assert (site.power(), site.points(), site.ledger.debts()) == (Power.RUNNING, [], [])
    assert bitmaps(image) == set()


def test_a_guest_that_is_started_once_all_is_read_does_not_spoil_the_backup(tmp_path: Path) -> None:
    site, image = site_with(tmp_path, Power.OFF)

    def start(point: str) -> None:
        if point == "writer.before-snapshot":
            site.host.start(site.host.list_vms()[0].uuid)
            qemu_io(image, "write -P 5 0 64k")

    with listening(start):
        report = site.back_up()
    assert [point.id for point in site.points()] == [report.restore_point.id]
    assert site.power() is Power.RUNNING
    site.host.shut_down(site.host.list_vms()[0].uuid, 0)
    site.back_up()
    assert site.restored() == truth(image)


@pytest.mark.parametrize("after", [False, True], ids=["refused", "reply lost"])
@pytest.mark.parametrize("when_running", [SHUT_DOWN, SUSPEND])
def test_every_word_with_the_hypervisor_can_fail(tmp_path: Path, when_running: WhenRunning, after: bool) -> None:
    site, image = site_with(tmp_path, Power.RUNNING)
    failed = 0
    for fail_at in range(1, 20):
        site.hypervisor = Faults(site.host, fail_at, HostError("connection lost"), after=after)
        points = len(site.points())
        try:
            site.back_up(when_running=when_running, shutdown_timeout_s=0)
        except DonjonError:
            failed += 1
            assert len(site.points()) == points
        assert site.power() is Power.RUNNING
        assert site.ledger.debts() == []
        if site.hypervisor.calls < fail_at:
            break
    assert failed >= 3
    site.hypervisor = site.host
    site.back_up(when_running=when_running)
    assert site.restored() == truth(image)
