# SPDX-License-Identifier: Apache-2.0
"""A real guest is backed up, changed, lost, restored and rolled back: what comes back is what it was, byte for byte."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

import pytest

from lab.guest import define, start, virsh
from lab.programs import run
from tests.system.admin import BLOCK_SIZE, Admin, Guest, changed_blocks, digests

pytestmark = pytest.mark.system

SETTLED_S = 2.5
METADATA_BLOCKS = 3  # that ext4 may write anew with what they held before
KILLED_WHILE_BACKING_UP = [
    "offline.bitmap-begun",
    "writer.pack-saved",
    "writer.snapshot-saved",
    "backup.committed",
    "offline.bitmap-stale",
]


def test_a_guest_comes_back_under_another_name_beside_the_original(admin: Admin, guest: Guest, tmp_path: Path) -> None:
    time.sleep(SETTLED_S)
    first = admin.donjon("backup", guest.name)["backups"][0]
    at_first = guest.contents()
    verified = guest.run("write:second:2:vda", "verify")[-2]
    at_second = guest.contents()
    second = admin.donjon("backup", guest.name)["backups"][0]
    assert_reads_only_what_changed(second, at_first, at_second)

    guest.boot()
    report = admin.donjon("restore", guest.name, "--name", "twin", "--directory", tmp_path / "twin")
    twin = Guest(guest.uri, "twin", {disk["target"]: Path(disk["path"]) for disk in report["disks"]})
    try:
        assert digests(twin.contents()) == digests(at_second)
        for target, image in twin.disks.items():
            run("qemu-img", "compare", "-f", "raw", "-F", image.suffix[1:], at_second[target], image)
        assert verified.startswith("verified ")
        assert verified in twin.run("verify")
        assert guest.state == "running"
        assert identity(twin.xml).isdisjoint(identity(guest.xml))
    finally:
        twin.remove()

    earlier = f"{guest.name}@{first['restore_point']['short_id']}"
    assert digests(admin.restored(earlier, tmp_path / "earlier")) == digests(at_first)
    admin.repository_is_sound()


def assert_reads_only_what_changed(
    backup: dict[str, list[dict[str, int]]], was: dict[str, Path], now: dict[str, Path]
) -> None:
    vda, vdb = backup["disks"]
    data, zeros = changed_blocks(was["vda"], now["vda"])
    assert 4 <= data < 20
    assert data * BLOCK_SIZE <= vda["read"] <= (data + METADATA_BLOCKS) * BLOCK_SIZE
    assert vda["zero"] >= zeros * BLOCK_SIZE
    assert (vdb["read"], vdb["kept"]) == (0, vdb["size"])
    assert changed_blocks(was["vdb"], now["vdb"]) == (0, 0)


def identity(xml: str) -> set[str]:
    found = set(re.findall(r"<uuid>(.+?)</uuid>|<mac address='(.+?)'|<source file='(.+?)'", xml))
    assert len(found) == 4
    return {word for words in found for word in words if word}


def test_what_a_guest_wipes_does_not_come_back(admin: Admin, guest: Guest, tmp_path: Path) -> None:
    define(guest.uri, guest.xml.replace("type='qcow2' ", "type='qcow2' detect_zeroes='unmap' ", 1))
    guest.run("write:secret:3", "write:gone:3")
    before = guest.contents()
    admin.donjon("backup", guest.name)
    guest.run("zero:secret:3", "remove:gone")
    after = guest.contents()
    for target in guest.disks:
        assert changed_blocks(before[target], after[target])[1] >= 4, "the guest wiped nothing"
    admin.donjon("backup", guest.name)
    assert digests(admin.restored(guest.name, tmp_path / "wiped")) == digests(after)
    admin.repository_is_sound()


def test_a_roll_back_keeps_the_present_state(admin: Admin, guest: Guest, tmp_path: Path) -> None:
    at_backup = guest.contents()
    admin.donjon("backup", guest.name)
    guest.run("write:mistake:2")
    mistaken = guest.contents()
    assert digests(mistaken) != digests(at_backup)

    report = admin.donjon("restore", guest.name, "--in-place")
    assert digests(guest.contents()) == digests(at_backup)
    kept = {disk["target"]: Path(disk["kept"]) for disk in report["rolled_back"]}
    assert {disk["path"] for disk in report["rolled_back"]} == {str(path) for path in guest.disks.values()}
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", mistaken["vda"], kept["vda"])
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", mistaken["vdb"], kept["vdb"])

    guest.run("verify", "write:right:1")
    now = guest.contents()
    admin.donjon("backup", guest.name)
    assert digests(admin.restored(guest.name, tmp_path / "after")) == digests(now)


@pytest.mark.parametrize("point", KILLED_WHILE_BACKING_UP)
def test_a_backup_killed_anywhere_is_made_good(point: str, admin: Admin, guest: Guest, tmp_path: Path) -> None:
    admin.donjon("backup", guest.name)
    now = guest.contents()
    admin.dies(point, "backup", guest.name)
    admin.settles()
    admin.repository_is_sound()
    admin.donjon("backup", guest.name)
    assert len(bitmaps(guest.disks["vda"])) == 1
    assert digests(guest.contents()) == digests(now)
    assert digests(admin.restored(guest.name, tmp_path / "restored")) == digests(now)


def test_a_restore_killed_anywhere_leaves_nothing(admin: Admin, guest: Guest, tmp_path: Path) -> None:
    admin.donjon("backup", guest.name)
    twin = tmp_path / "twin"
    for point in ("restore.begun", "restore.written", "restore.before-define"):
        admin.dies(point, "restore", guest.name, "--name", "twin", "--directory", twin)
        assert admin.settles()
        assert not twin.exists()
        assert "twin" not in virsh(guest.uri, "list", "--all", "--name")


def test_a_roll_back_killed_anywhere_leaves_whole_disks(admin: Admin, guest: Guest) -> None:
    at_backup = guest.contents()
    admin.donjon("backup", guest.name)
    guest.run("write:mistake:1")
    present = guest.contents()
    for point in ("roll-back.restored", "roll-back.half-swapped"):
        admin.dies(point, "restore", guest.name, "--in-place")
        assert admin.settles()
        assert digests(guest.contents()) == digests(present)
        assert [path for path in guest.disks["vda"].parent.iterdir() if ".restored-" in path.name] == []
    admin.donjon("restore", guest.name, "--in-place")
    assert digests(guest.contents()) == digests(at_backup)


def test_firmware_variables_and_tpm_state_come_back(
    admin_on_the_host: Admin, guest: Guest, tpm_root: Path, tmp_path: Path
) -> None:
    admin, state = admin_on_the_host, {"tpm2-00.permall": b"sealed keys", ".lock": b""}
    variables = tmp_path / "its images" / "its_VARS.fd"
    variables.write_bytes(b"boot order" * 5000)
    firmware = f"<loader readonly='yes' type='pflash'>{tmp_path}/CODE.fd</loader><nvram>{variables}</nvram>"
    tpm = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"
    define(guest.uri, guest.xml.replace("<kernel>", f"{firmware}<kernel>").replace("</devices>", f"{tpm}</devices>"))
    original = tpm_root / uuid_of(guest.xml) / "tpm2"
    original.mkdir(parents=True)
    for name, text in state.items():
        (original / name).write_bytes(text)

    admin.donjon("backup", guest.name)
    report = admin.donjon("restore", guest.name, "--name", "twin", "--directory", tmp_path / "twin")
    twin = Guest(guest.uri, "twin", {})
    try:
        found = re.search(r"<nvram.*?>(.+?)</nvram>", twin.xml)
        assert found is not None
        assert Path(found[1]) != variables
        assert Path(found[1]).read_bytes() == variables.read_bytes()
        restored = tpm_root / uuid_of(twin.xml) / "tpm2"
        assert uuid_of(twin.xml) == report["vm_uuid"] != uuid_of(guest.xml)
        assert (restored / "tpm2-00.permall").read_bytes() == state["tpm2-00.permall"]
    finally:
        twin.remove()
        for folder in tpm_root.iterdir():
            shutil.rmtree(folder)
    assert admin.owed() == []


def uuid_of(xml: str) -> str:
    found = re.search(r"<uuid>(.+?)</uuid>", xml)
    assert found is not None
    return found[1]


def bitmaps(image: Path) -> list[str]:
    return re.findall(r"^\s+name: (\S+)$", run("qemu-img", "info", image), re.MULTILINE)


def test_a_guest_left_behind_can_still_start_after_a_killed_backup(admin: Admin, guest: Guest) -> None:
    """What is owed may be settled late: a guest that was started meanwhile keeps running."""
    admin.dies("writer.pack-saved", "backup", guest.name)
    start(guest.uri, guest.name)
    assert admin.donjon("settle", exit_code=3)["left"]
    assert guest.state == "running"
    virsh(guest.uri, "destroy", guest.name)
    assert admin.settles()
