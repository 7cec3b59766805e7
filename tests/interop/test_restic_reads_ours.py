# SPDX-License-Identifier: Apache-2.0
"""Stock restic reads what donjon writes."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from donjon.repository.keys import add_key
from donjon.repository.repository import Repository
from donjon.repository.stores.local import LocalStore
from tests.interop.conftest import KIB512, Ours
from tests.interop.stock_restic import Restic
from tests.unit.repository.disks import restored

pytestmark = pytest.mark.interop


def test_it_lists_every_restore_point(restic: Restic, ours: Ours) -> None:
    found = {snapshot["id"]: snapshot for snapshot in restic.json("snapshots")}
    assert found.keys() == ours.points.keys()
    assert all(found[name]["paths"] == [f"/{vm}"] for name, (vm, _) in ours.points.items())


def test_it_finds_no_fault(restic: Restic) -> None:
    restic.check()


def test_it_lists_and_dumps_the_disks(restic: Restic, ours: Ours) -> None:
    for snapshot, (vm, content) in ours.points.items():
        assert f"/{vm}/vda/vda.raw" in restic.run("ls", snapshot).decode().splitlines()
        assert restic.run("dump", snapshot, f"/{vm}/vda/vda.raw") == content


def test_it_restores_the_disks(restic: Restic, ours: Ours, tmp_path: Path) -> None:
    for number, (snapshot, (vm, content)) in enumerate(ours.points.items()):
        target = tmp_path / f"restored-{number}"
        restic.run("restore", snapshot, "--target", target)
        assert (target / vm / "vda" / "vda.raw").read_bytes() == content


def test_it_restores_holes_as_holes(restic: Restic, ours: Ours, tmp_path: Path) -> None:
    if restic.version < (0, 15):
        pytest.skip("this restic knows no sparse files")
    snapshot, (vm, content) = next(iter(ours.points.items()))
    restic.run("restore", snapshot, "--sparse", "--target", tmp_path / "sparse")
    disk = tmp_path / "sparse" / vm / "vda" / "vda.raw"
    assert disk.read_bytes() == content
    assert disk.stat().st_blocks * 512 < len(content) - (1 << 20)


def test_it_finds_and_compares(restic: Restic, ours: Ours) -> None:
    assert len(restic.json("find", "vda.raw")) == len(ours.points)
    web = [snapshot for snapshot, (vm, _) in ours.points.items() if vm == "web"]
    assert "/web/vda/vda.raw" in restic.run("diff", web[0], web[1]).decode()
    assert restic.json("stats", web[0])["total_size"] == len(ours.points[web[0]][1])


def test_it_opens_with_a_key_that_we_added_and_we_with_one_of_its(restic: Restic, ours: Ours, tmp_path: Path) -> None:
    repository = ours.open()
    add_key(repository.store, repository.key, "second é")
    second = Restic(restic.binary, restic.place, "second é")
    assert len(second.json("snapshots")) == len(ours.points)
    (tmp_path / "third").write_text("third")
    restic.run("key", "add", "--new-password-file", tmp_path / "third")
    third = Repository.open(LocalStore(ours.place), "third")
    for snapshot, (vm, content) in ours.points.items():
        assert restored(third, snapshot, vm, KIB512) == content
    assert len(second.json("key", "list")) == 3


@contextmanager
def mounted(restic: Restic, place: Path) -> Iterator[Path]:
    place.mkdir()
    log = place.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(restic.command("mount", place), env=restic.env, stdout=output, stderr=output)
    try:
        for _ in range(100):
            if (place / "ids").exists():
                break
            if process.poll() is not None:
                pytest.skip(f"cannot mount: {log.read_text().strip()[-200:]}")
            time.sleep(0.1)
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True)
        process.terminate()
        process.wait(20)


def test_it_mounts_the_disks(restic: Restic, ours: Ours, tmp_path: Path) -> None:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs FUSE")
    with mounted(restic, tmp_path / "mounted") as place:
        for snapshot, (vm, content) in ours.points.items():
            assert (place / "ids" / snapshot[:8] / vm / "vda" / "vda.raw").read_bytes() == content
