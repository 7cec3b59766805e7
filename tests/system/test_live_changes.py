# SPDX-License-Identifier: Apache-2.0
"""Whatever others do to a running guest between its live backups, each of them is right, byte for byte."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest

from lab.guest import create_disk, virsh, wait_until_off
from lab.programs import run
from tests.system.admin import Admin, digests, make_admin
from tests.system.live import LiveGuest, spec_of
from tests.system.live_truth import Site, is_incremental, site_of

pytestmark = pytest.mark.system

# A backing file that is younger counts as one that may have changed since.
SETTLING_S = 3
FOREIGN_JOB = """\
<domainbackup mode='pull'>
  <server transport='unix' socket={socket}/>
  <disks>
    <disk name='vda' backup='yes' type='file'><scratch file={scratch}/></disk>
    <disk name='vdb' backup='no'/>
  </disks>
</domainbackup>
"""
FOREIGN_CHECKPOINT = """\
<domaincheckpoint>
  <name>foreign</name>
  <disks><disk name='vda' checkpoint='bitmap'/><disk name='vdb' checkpoint='no'/></disks>
</domaincheckpoint>
"""


@pytest.fixture
def site(idle_guest: LiveGuest, admin: Admin) -> Iterator[Site]:
    with site_of(idle_guest, admin) as site:
        yield site


@contextmanager
def external_snapshot(site: Site) -> Iterator[None]:
    """Somebody has the guest write to an overlay of vda, and commits that to the image in the end."""
    overlay = site.images()["vda"][0].with_name("overlay.qcow2")
    specs = [f"--diskspec=vda,file={overlay}", "--diskspec=vdb,snapshot=no"]
    virsh(site.guest.uri, "snapshot-create-as", site.guest.name, "--disk-only", "--no-metadata", *specs)
    assert site.images()["vda"][0] == overlay
    time.sleep(SETTLING_S)
    yield
    virsh(site.guest.uri, "blockcommit", site.guest.name, "vda", "--active", "--pivot", "--wait")
    assert site.images()["vda"][0] != overlay
    overlay.unlink()


def attach(site: Site, image: Path, image_format: str = "qcow2") -> None:
    """As vdc, for good."""
    plug = [site.guest.name, str(image), "vdc", "--subdriver", image_format]
    virsh(site.guest.uri, "attach-disk", *plug, "--persistent")


def test_a_backup_between_snapshot_and_commit_of_somebody_else(site: Site) -> None:
    site.guest.do("write:first:2")
    site.back_up()
    with external_snapshot(site):
        site.guest.do("write:second:2")
        assert "chain" in site.back_up_exactly()["vda"]["reason"]
        site.guest.do("write:third:1")
        site.back_up_exactly()  # In full once more: the old bitmap was deleted, also from the image below the overlay.
        time.sleep(SETTLING_S)
        site.back_up()
        site.guest.do("write:third:1")
        vda = site.back_up_exactly()["vda"]
        assert is_incremental(vda), vda["reason"]
    site.guest.do("write:fourth:1")
    assert site.back_up_exactly()["vda"]["kept"] == 0
    assert is_incremental(site.back_up_exactly()["vda"])
    site.nothing_is_left()


def test_a_backup_after_a_snapshot_of_somebody_else_has_come_and_gone(site: Site) -> None:
    site.guest.do("write:first:2")
    site.back_up()
    with external_snapshot(site):
        site.guest.do("write:second:2")
    site.guest.do("write:third:1")
    site.back_up_exactly()
    assert is_incremental(site.back_up_exactly()["vda"])
    site.nothing_is_left()


def test_a_snapshot_inside_the_image_costs_a_full_read_and_can_be_gone_back_to(site: Site, tmp_path: Path) -> None:
    site.guest.do("write:first:2")
    site.back_up()
    node = next(node["node-name"] for node in site.monitor("query-named-block-nodes") if node["drv"] == "qcow2")
    site.monitor("blockdev-snapshot-internal-sync", device=node, name="inside")
    site.guest.do("write:second:2:vda")
    site.back_up_exactly()
    assert site.back_up_exactly()["vda"]["kept"] == 0
    assert site.checkpoints() == set()
    virsh(site.guest.uri, "destroy", site.guest.name)
    run("qemu-img", "snapshot", "-a", "inside", site.guest.disks["vda"])
    site.guest.start()
    assert site.back_up_exactly()["vda"]["kept"] == 0
    site.nothing_is_left()


def test_an_offline_backup_between_live_ones(site: Site, tmp_path: Path) -> None:
    guest = site.guest
    guest.do("write:first:2")
    site.back_up()
    guest.do("write:second:2")
    virsh(guest.uri, "shutdown", guest.name, "--mode", "agent")
    wait_until_off(guest.uri, guest.name)
    report = site.admin.donjon(*site.words)["backups"][0]
    assert report["restore_point"]["method"] == "offline"
    assert is_incremental(next(disk for disk in report["disks"] if disk["target"] == "vda"))
    assert digests(site.admin.restored(spec_of(report), tmp_path / "restored")) == digests(guest.contents())
    guest.start("write:third:1")
    assert is_incremental(site.back_up_exactly()["vda"])
    site.nothing_is_left()


def test_a_guest_that_was_shut_down_and_started_goes_on_incrementally(site: Site) -> None:
    guest = site.guest
    guest.do("write:first:2")
    site.back_up()
    guest.do("write:second:1")
    virsh(guest.uri, "shutdown", guest.name, "--mode", "agent")
    wait_until_off(guest.uri, guest.name)
    guest.start("write:third:1")
    assert is_incremental(site.back_up_exactly()["vda"])
    site.nothing_is_left()


def test_a_disk_in_place_of_another_is_read_in_full(site: Site) -> None:
    folder = site.guest.host.new_folder("replaced")
    for name in ("one", "other"):
        create_disk(folder / f"{name}.qcow2", 16)
    attach(site, folder / "one.qcow2")
    site.back_up()
    definition = folder / "guest.xml"
    virsh(site.guest.uri, "destroy", site.guest.name)
    definition.write_text(site.guest.xml.replace("one.qcow2", "other.qcow2"), encoding="utf-8")
    virsh(site.guest.uri, "define", str(definition))
    site.guest.start()
    disks = site.back_up_exactly()
    assert disks["vdc"]["kept"] == 0
    assert is_incremental(site.back_up_exactly()["vdc"])
    site.nothing_is_left()


@pytest.mark.parametrize("kind", ["raw", "qcow2 of version 2", "qcow2 on a chain"])
def test_disks_of_all_kinds(kind: str, site: Site) -> None:
    folder = site.guest.host.new_folder(kind.replace(" ", "-"))
    image, image_format = folder / "vdc", "qcow2"
    if kind == "raw":
        create_disk(image, 16, image_format := "raw")
    elif kind == "qcow2 of version 2":
        create_disk(image, 16)
        run("qemu-img", "amend", "-f", "qcow2", "-o", "compat=0.10", image)
    else:
        create_disk(folder / "base", 16)
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", folder / "base", "-F", "qcow2", folder / "middle")
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", folder / "middle", "-F", "qcow2", image)
    attach(site, image, image_format)
    time.sleep(SETTLING_S)
    site.back_up_exactly()
    overwrite(site, "vdc")
    disks = site.back_up_exactly()
    assert is_incremental(disks["vda"])
    assert ("tells what has changed" in disks["vdc"]["reason"]) is (kind == "qcow2 on a chain")
    assert disks["vdc"]["added"] <= 4 << 20
    site.nothing_is_left()


def overwrite(site: Site, target: str) -> None:
    """Without the guest's doing: it need not have noticed the disk."""
    nodes = {block["qdev"]: block for block in site.monitor("query-block") if block.get("inserted")}
    image = str(site.images()[target][0])
    device = next(qdev for qdev, block in nodes.items() if block["inserted"]["file"] == image)
    for command in ("write -P 77 1M 1M", "write -z 4M 1M", "discard 6M 1M"):
        virsh(site.guest.uri, "qemu-monitor-command", site.guest.name, "--hmp", f'qemu-io -d {device} "{command}"')


def test_a_guest_that_is_paused_and_stays_so(site: Site) -> None:
    site.guest.do("write:first:2")
    site.back_up()
    site.guest.do("write:second:1")
    virsh(site.guest.uri, "suspend", site.guest.name)
    assert is_incremental(site.back_up_exactly()["vda"])
    assert site.guest.state == "paused"
    site.nothing_is_left()


def test_the_backup_of_another_program_is_neither_disturbed_nor_waited_for(site: Site, tmp_path: Path) -> None:
    guest = site.guest
    guest.do("write:first:2")
    site.back_up()
    foreign = guest.host.new_folder("foreign")
    job, checkpoint = foreign / "job.xml", foreign / "checkpoint.xml"
    job.write_text(
        FOREIGN_JOB.format(socket=quoteattr(str(foreign / "nbd")), scratch=quoteattr(str(foreign / "scratch"))),
        encoding="utf-8",
    )
    checkpoint.write_text(FOREIGN_CHECKPOINT, encoding="utf-8")
    virsh(guest.uri, "backup-begin", guest.name, str(job), str(checkpoint))
    said = site.admin.donjon(*site.words, exit_code=1)
    assert "another backup of it is under way" in said["error"]
    assert site.has_job()
    virsh(guest.uri, "domjobabort", guest.name)
    guest.do("write:second:1")
    assert is_incremental(site.back_up_exactly()["vda"])
    assert "foreign" in site.checkpoints() & site.bitmaps()
    site.nothing_is_left()


def test_two_repositories_get_the_changes_since_their_own_last_backup(site: Site, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Site(site.guest, make_admin(tmp_path / "other", site.guest.uri), site.scratch)
    for turn in ("first", "second", "third"):
        for one in (site, other):
            site.guest.do(f"write:{turn}:1:vda")
            vda = one.back_up_exactly()["vda"]
            assert is_incremental(vda) is (turn != "first")
    site.nothing_is_left(checkpoints=2)
    assert other.admin.owed() == []
