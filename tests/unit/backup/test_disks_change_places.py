# SPDX-License-Identifier: Apache-2.0
"""Bitmaps that began together share a name; a disk never takes another's for its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.backup.site import MIB, Site, disk, machine, new_qcow2, qemu_io, truth


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, Path]:
    """Of one size, with different content."""
    made = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        made.append(new_qcow2(tmp_path / name))
        qemu_io(made[-1], f"write -P {len(made)} {MIB} {MIB}")
    return made[0], made[1]


def by_definition(site: Site, first: Path, second: Path) -> tuple[Path, Path]:
    site.host.change(machine(disk("vda", second), disk("vdb", first)))
    return second, first


def by_name(_: Site, first: Path, second: Path) -> tuple[Path, Path]:
    aside = first.with_name("aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)
    return first, second


@pytest.mark.parametrize("change_places", [by_definition, by_name])
def test_disks_that_changed_places_are_read_in_full(
    images: tuple[Path, Path], change_places: Callable[[Site, Path, Path], tuple[Path, Path]]
) -> None:
    first, second = images
    site = Site(machine(disk("vda", first), disk("vdb", second)))
    site.back_up()
    qemu_io(first, "write -P 77 0 64k")
    qemu_io(second, "write -P 78 3M 64k")
    vda, vdb = change_places(site, first, second)
    report = site.back_up()
    assert [each.kept for each in report.disks] == [0, 0]
    assert site.restored(target="vda") == truth(vda)
    assert site.restored(target="vdb") == truth(vdb)


def test_disks_that_stay_where_they_are_are_not(images: tuple[Path, Path]) -> None:
    first, second = images
    site = Site(machine(disk("vda", first), disk("vdb", second)))
    site.back_up()
    qemu_io(first, "write -P 77 0 64k")
    qemu_io(second, "write -P 78 3M 64k")
    assert all(each.kept for each in site.back_up().disks)
    assert site.restored(target="vdb") == truth(second)


def test_a_single_disk_may_move(images: tuple[Path, Path]) -> None:
    first, _ = images
    site = Site(machine(disk("vda", first)))
    site.back_up()
    qemu_io(first, "write -P 77 0 64k")
    moved = first.rename(first.with_name("moved.qcow2"))
    site.host.change(machine(disk("vda", moved)))
    (report,) = site.back_up().disks
    assert report.kept > 0
    assert site.restored() == truth(moved)
