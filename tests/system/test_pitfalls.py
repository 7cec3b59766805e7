# SPDX-License-Identifier: Apache-2.0
"""What lost other people's data: one test for each way, named after its number, with backups of a running guest."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lab.guest import create_disk, virsh, wait_until_off
from lab.hosts import migrate
from lab.libvirt_host import Host
from tests.system.admin import Admin, digests
from tests.system.live import LiveGuest, LiveGuests, spec_of
from tests.system.live_truth import Site, is_incremental, site_of

pytestmark = pytest.mark.system


@pytest.fixture
def site(idle_guest: LiveGuest, admin: Admin) -> Iterator[Site]:
    with site_of(idle_guest, admin) as site:
        yield site


def test_m1_01_what_was_overwritten_with_zeros_or_trimmed_comes_back_as_zeros(site: Site) -> None:
    site.guest.do("write:zeroed:3", "write:trimmed:3", "write:stays:1")
    site.back_up_exactly()
    site.guest.do("zero:zeroed:3", "remove:trimmed")
    vda = site.back_up_exactly()["vda"]
    assert is_incremental(vda)
    assert vda["zero"] > 0


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("live.begun", id="m2 after the job began"),
        pytest.param("live.owed", id="m3 before the job began"),
    ],
)
def test_m2_m3_02_after_a_killed_backup_the_next_one_holds_everything(point: str, site: Site) -> None:
    site.guest.do("write:before:1")
    site.back_up_exactly()
    site.guest.do("write:meanwhile:2")
    site.admin.dies(point, *site.words)
    site.settles_by_itself()
    site.guest.do("write:after:1")
    vda = site.back_up_exactly()["vda"]
    assert is_incremental(vda)
    assert vda["read"] >= 3 << 20
    site.nothing_is_left()


def test_m4_m5_m6_08_a_moved_a_gappy_and_a_rotten_repository(site: Site, tmp_path: Path) -> None:
    site.guest.do("write:first:2:vda")
    site.back_up()
    site.guest.do("write:second:2:vda")
    with site.suspended():
        report = site.admin.donjon(*site.words)["backups"][0]
        held = digests(site.contents(site.admin.folder))
    spec, repository = spec_of(report), site.admin.repository
    moved = tmp_path / "moved"
    shutil.copytree(repository, moved, copy_function=shutil.copyfile)
    repository.rename(tmp_path / "aside")
    moved.rename(repository)
    assert digests(site.admin.restored(spec, tmp_path / "restored")) == held

    packs = sorted(
        (path for path in (repository / "data").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )
    content = bytearray(packs[-1].read_bytes())
    content[len(content) // 3] ^= 1
    packs[-1].chmod(0o600)
    packs[-1].write_bytes(content)
    damaged = site.admin.donjon("restore", spec, "--to-dir", tmp_path / "rotten", exit_code=1)
    assert "damaged" in damaged["error"]
    assert not list((tmp_path / "rotten").glob("*.qcow2"))
    packs[-1].unlink()
    missing = site.admin.donjon("restore", spec, "--to-dir", tmp_path / "gappy", exit_code=1)
    assert missing["error"]
    assert not list((tmp_path / "gappy").glob("*.qcow2"))


def test_m7_14_a_guest_whose_backup_is_killed_right_after_the_freeze_is_thawed(site: Site) -> None:
    site.guest.do("writer:vda")
    site.guest.writes_on()
    site.admin.dies("freeze.frozen", *site.words)
    site.guest.writes_on()
    site.settles_by_itself()
    site.prove_writing()


def test_m8_18_a_backup_that_is_told_to_stop_leaves_nothing(site: Site) -> None:
    site.back_up()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with site.halted_at("live.captured") as backup:
            assert site.has_job()
            assert backup.gets(number) not in {0, -number}
        site.nothing_is_left()
    assert is_incremental(site.back_up_exactly()["vda"])


def test_04_a_bitmap_that_was_lost_with_qemu_costs_a_full_read_and_the_reason_is_shown(site: Site) -> None:
    site.guest.do("write:first:2")
    site.back_up()
    site.guest.do("write:second:2")
    site.guest.signal_qemu(signal.SIGKILL)
    site.guest.start("write:third:1")
    vda = site.back_up_exactly()["vda"]
    assert vda["kept"] == 0
    assert "lost or broken" in vda["reason"]
    assert vda["added"] < vda["read"]
    assert is_incremental(site.back_up_exactly()["vda"])
    site.nothing_is_left()


def test_05_a_checkpoint_that_libvirt_has_forgotten_is_found_in_the_image(site: Site) -> None:
    site.guest.do("write:first:2")
    site.back_up()
    [name] = site.checkpoints()
    virsh(site.guest.uri, "checkpoint-delete", site.guest.name, name, "--metadata")
    assert site.checkpoints() == set()
    site.guest.do("write:second:2")
    assert is_incremental(site.back_up_exactly()["vda"])
    site.nothing_is_left()


def test_05_a_guest_that_is_undefined_and_defined_anew_goes_on_incrementally(site: Site, tmp_path: Path) -> None:
    site.guest.do("write:first:2")
    site.back_up()
    definition = tmp_path / "guest.xml"
    definition.write_text(site.guest.xml, encoding="utf-8")
    virsh(site.guest.uri, "undefine", site.guest.name, "--checkpoints-metadata")
    site.guest.do("write:second:2")
    assert is_incremental(site.back_up_exactly()["vda"]), "as a transient guest"
    virsh(site.guest.uri, "define", str(definition))
    site.guest.do("write:third:1")
    assert is_incremental(site.back_up_exactly()["vda"])
    site.nothing_is_left()


@pytest.mark.root
def test_05_a_guest_that_has_migrated_goes_on_incrementally(
    connected_hosts: tuple[Host, Host], live_guests: LiveGuests, admin: Admin
) -> None:
    here, there = connected_hosts
    with live_guests.running(here) as guest, site_of(guest, admin) as site:
        guest.do("write:first:2")
        site.back_up("--connect", here.uri)
        guest.do("write:second:2")
        migrate(guest.name, here, there)
        try:
            moved = replace(site, guest=replace(guest, uri=there.uri, host=there))
            moved.guest.do("write:third:1")
            assert is_incremental(moved.back_up_exactly("--connect", there.uri)["vda"])
            moved.nothing_is_left()
        finally:
            migrate(guest.name, there, here)
        assert is_incremental(site.back_up_exactly("--connect", here.uri)["vda"])


def test_06_of_a_guest_with_a_new_disk_only_that_is_read_in_full(site: Site) -> None:
    site.guest.do("write:first:1:vda")
    site.back_up()
    image = site.guest.host.new_folder("new-disk") / "vdc.qcow2"
    create_disk(image, 16)
    site.guest.host.give(image)
    plug = [site.guest.name, str(image), "vdc", "--subdriver", "qcow2"]
    virsh(site.guest.uri, "attach-disk", *plug, "--persistent")
    disks = site.back_up_exactly()
    assert is_incremental(disks["vda"])
    assert (disks["vdc"]["kept"], disks["vdc"]["reason"]) == (0, "there is no earlier restore point of this disk")
    disks = site.back_up_exactly()
    assert is_incremental(disks["vda"])
    assert is_incremental(disks["vdc"])
    site.nothing_is_left()


def test_07_of_a_guest_whose_disk_has_grown_only_that_is_read_in_full(site: Site) -> None:
    site.guest.do("write:first:1")
    site.back_up()
    virsh(site.guest.uri, "blockresize", site.guest.name, "vda", "224MiB")
    site.guest.do("grow:vda", "write:second:2")
    vda = site.back_up_exactly()["vda"]
    assert (vda["kept"], vda["size"]) == (0, 224 << 20)
    assert "was resized from" in vda["reason"]
    assert is_incremental(site.back_up_exactly()["vda"])
    site.nothing_is_left()


def test_17_no_overlay_is_made_by_any_backup(site: Site) -> None:
    before = site.images()
    for _ in range(2):
        site.back_up()
    assert site.images() == before
    assert {path for image, _ in before.values() for path in image.parent.glob("*.qcow2")} <= {
        image for image, _ in before.values()
    }
    site.nothing_is_left()


@pytest.mark.parametrize("how", ["destroyed", "shut down"])
def test_19_a_guest_that_is_turned_off_meanwhile_is_backed_up_offline_in_the_same_run(
    how: str, site: Site, tmp_path: Path
) -> None:
    guest = site.guest
    guest.do("write:first:2:vda")
    site.back_up()
    guest.do("write:second:2:vda")
    with site.halted_at("live.captured") as backup:
        if how == "destroyed":
            guest.signal_qemu(signal.SIGKILL)
        else:
            virsh(guest.uri, "shutdown", guest.name, "--mode", "agent")
            wait_until_off(guest.uri, guest.name)
        code, said = backup.goes_on()
    assert code == 0, said
    report = said["backups"][0]
    assert (report["restore_point"]["method"], report["restore_point"]["consistency"]) == ("offline", "crash")
    assert "turned off while it was backed up" in " ".join(report["notes"])
    restored = site.admin.restored(spec_of(report), tmp_path / "restored")
    assert digests(restored) == digests(guest.contents())
    guest.start("write:third:1:vda")
    site.back_up_exactly()
    site.nothing_is_left()


def test_23_what_was_trimmed_costs_next_to_nothing(site: Site) -> None:
    site.guest.do("write:large:32:vda")
    site.back_up()
    site.guest.do("remove:large:vda")
    vda = site.back_up_exactly()["vda"]
    assert vda["zero"] >= 24 << 20
    assert vda["read"] < 8 << 20
