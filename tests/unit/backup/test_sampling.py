# SPDX-License-Identifier: Apache-2.0
"""A change map that lies is found out by comparing, and costs no restore point."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from donjon.backup.backup import BackupReport
from donjon.backup.sample import Sampling
from donjon.model.restore_point import DiskPoint
from donjon.restore_points import load_manifest
from tests.unit.backup.site import (
    BLOCK,
    MIB,
    NEVER,
    Site,
    bitmaps,
    disk,
    machine,
    new_qcow2,
    new_raw,
    qemu,
    qemu_io,
    truth,
)

ALL = Sampling(all=True)


def last_point(site: Site) -> DiskPoint:
    found = load_manifest(site.repository, site.points()[-1]).disk("vda")
    assert found
    return found


def write_unnoticed(image: Path, bitmap: str, *commands: str) -> None:
    """Write while the bitmap does not see it; the image keeps no trace of that."""
    qemu("qemu-img", "bitmap", "--disable", "-f", "qcow2", image, bitmap)
    qemu_io(image, *commands)
    qemu("qemu-img", "bitmap", "--enable", "-f", "qcow2", image, bitmap)


def lied_to(folder: Path, *commands: str) -> Site:
    """A site whose image was written to behind its bitmap's back."""
    image = new_qcow2(folder)
    site = Site(machine(disk("vda", image)))
    site.back_up()
    checkpoint = site.checkpoint()
    assert checkpoint in bitmaps(image)
    write_unnoticed(image, checkpoint or "", *commands)
    return site


def check_found_out(site: Site, report: BackupReport, image: Path, offset: int) -> None:
    (seen,) = report.disks
    assert site.restored() == truth(image)
    assert (seen.mismatch, seen.read, seen.kept, seen.zero) == (True, seen.size, 0, 0)
    assert seen.reason == "a block that was said to be unchanged had changed"
    (note,) = report.notes
    assert f"disk vda has other bytes at offset {offset} than the last restore point" in note
    assert "the image's bitmap tells what has changed" in note
    assert last_point(site).mismatch
    assert load_manifest(site.repository, site.points()[-1]).notes == (note,)
    (known,) = last_point(site).comparisons
    assert (known.start, known.blocks, known.when) == (0, 8, report.restore_point.taken_at.replace(microsecond=0))


@pytest.mark.parametrize(
    ("command", "offset"),
    [("write -P 99 1M 4k", MIB), (f"write -P 99 {4 * MIB - 512} 512", 4 * MIB - BLOCK), (f"write -z 0 {BLOCK}", 0)],
)
def test_a_bitmap_that_missed_a_write_is_found_out(tmp_path: Path, command: str, offset: int) -> None:
    site = lied_to(tmp_path, command)
    report = site.back_up(sampling=Sampling())  # so small a disk is compared whole in every run
    check_found_out(site, report, tmp_path / "disk.qcow2", offset)
    again = site.back_up(sampling=ALL)
    assert not last_point(site).mismatch
    assert again.notes == ()
    assert site.restored() == truth(tmp_path / "disk.qcow2")


def test_new_blocks_on_their_way_when_a_lie_shows_are_stored_all_the_same(tmp_path: Path) -> None:
    site = lied_to(tmp_path, "write -P 99 0 4k")
    qemu_io(tmp_path / "disk.qcow2", f"write -P 98 {BLOCK} 4k", f"write -P 97 {3 * BLOCK} 4k")
    check_found_out(site, site.back_up(sampling=ALL), tmp_path / "disk.qcow2", 0)


def test_without_comparisons_the_lie_stays(tmp_path: Path) -> None:
    """What the tests above would not see, if the write had been noticed."""
    site = lied_to(tmp_path, "write -P 99 1M 4k")
    report = site.back_up(sampling=NEVER)
    assert (report.disks[0].compared, report.disks[0].mismatch) == (0, False)
    assert site.restored() != truth(tmp_path / "disk.qcow2")


def test_an_unchanged_image_is_compared_too_and_nothing_is_stored(tmp_path: Path) -> None:
    raw = new_raw(tmp_path)
    site = Site(machine(disk("vda", raw)))
    first = site.back_up()
    report = site.back_up(sampling=Sampling())
    (seen,) = report.disks
    if seen.kept:  # else written too shortly before the first backup to tell
        assert (seen.read, seen.kept, seen.compared, seen.added) == (0, seen.size, seen.size, 0)
    when = last_point(site).all_compared_since
    assert when
    assert when >= first.restore_point.taken_at.replace(microsecond=0)
    assert site.restored() == raw.read_bytes()


def test_what_was_compared_is_remembered_from_one_restore_point_to_the_next(tmp_path: Path) -> None:
    image = new_qcow2(tmp_path, size=24 * MIB)
    site = Site(machine(disk("vda", image)))
    site.back_up()
    assert last_point(site).all_compared_since  # what was read counts
    compared = []
    for number in range(2):
        time.sleep(1)  # comparisons are told apart by the second
        qemu_io(image, f"write -P {50 + number} 23M 4k")
        (seen,) = site.back_up(sampling=Sampling()).disks
        compared.append(seen.compared)
        assert (seen.read, seen.mismatch) == (BLOCK, False)
        assert sum(known.blocks for known in last_point(site).comparisons) == 48
    assert compared == [16 * MIB, 16 * MIB - BLOCK]
    assert site.restored() == truth(image)
