# SPDX-License-Identifier: Apache-2.0
"""What stock restic does to restore points between backups costs at most a full read, never data."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from donjon.repository.repository import Repository
from donjon.repository.stores.local import LocalStore
from donjon.restore_points import find_restore_point
from tests.unit.backup.site import UUID, Site, bitmaps, disk, machine, new_qcow2, new_raw, qemu_io, truth
from tests.unit.repository.disks import PASSWORD

pytestmark = pytest.mark.interop


class Shared(Site):
    """A site whose repository restic uses as well."""

    def __init__(self, folder: Path, name: str = "web01") -> None:
        self.image, self.raw = new_qcow2(folder), new_raw(folder)
        self.folder = folder
        vm = machine(disk("vda", self.image), disk("vdb", self.raw), name=name, definition="<domain/>")
        super().__init__(vm, store=LocalStore(folder / "repository"))

    def restic(self, *argv: str, fed: bytes = b"") -> bytes:
        environment = {**os.environ, "RESTIC_PASSWORD": PASSWORD, "RESTIC_CACHE_DIR": str(self.folder / "cache")}
        command = ["restic", "--repo", str(self.folder / "repository"), *argv]
        done = subprocess.run(command, check=False, capture_output=True, env=environment, input=fed)
        assert done.returncode == 0, done.stderr
        self.repository = Repository.open(LocalStore(self.folder / "repository"), PASSWORD)
        return done.stdout

    def back_up_and_compare(self) -> str:
        """Change something, back up, and compare all; why that much was read."""
        qemu_io(self.image, f"write -P {len(self.points()) + 1} 1M 64k")
        expected = truth(self.image)
        report = self.back_up()
        assert self.restored(target="vda") == expected
        assert self.restored(target="vdb") == self.raw.read_bytes()
        return report.disks[0].reason


@pytest.fixture
def shared(tmp_path: Path) -> Shared:
    return Shared(tmp_path)


def test_after_forget_of_the_newest(shared: Shared) -> None:
    shared.back_up()
    shared.back_up_and_compare()
    shared.restic("forget", "--prune", shared.points()[-1].id)
    assert "gone from the image" in shared.back_up_and_compare()
    assert bitmaps(shared.image) == {shared.checkpoint()}
    shared.restic("check", "--read-data")


def test_after_tag(shared: Shared) -> None:
    first = shared.back_up().restore_point
    shared.restic("tag", "--add", "kept", first.id)
    (tagged,) = shared.points()
    assert tagged.id != first.id
    assert find_restore_point([tagged], "web01", first.id[:8]) == tagged
    assert "bitmap tells" in shared.back_up_and_compare()


def test_after_other_tags_the_restore_point_is_the_same(shared: Shared) -> None:
    first = shared.back_up().restore_point
    shared.restic("tag", "--set", "kept", first.id)
    (tagged,) = shared.points()
    assert replace(tagged, id=first.id) == first
    assert "bitmap tells" in shared.back_up_and_compare()


def test_a_snapshot_of_files_is_no_restore_point(shared: Shared) -> None:
    shared.restic("backup", str(shared.raw))
    shared.restic("backup", "--stdin", "--stdin-filename", "donjon.json", fed=b"{}")
    assert shared.points() == []


def test_after_a_rewrite_without_a_disk(shared: Shared) -> None:
    shared.back_up()
    commands = subprocess.run(["restic", "help"], check=True, capture_output=True, text=True).stdout
    if "rewrite" not in commands:
        pytest.skip("this restic has no rewrite")
    shared.restic("rewrite", "--forget", "--exclude", "vda.raw")
    shared.back_up_and_compare()


@pytest.mark.parametrize(
    "name", ["web01", 'it\'s "quoted"', "a/b", ".hidden", "100%", "new\nline", "Füchse", "狐" * 85]
)
def test_restic_finds_the_disks_of_a_vm_of_any_name(tmp_path: Path, name: str) -> None:
    shared = Shared(tmp_path, name)
    report = shared.back_up()
    shared.restic("restore", "latest", "--target", str(tmp_path / "out"))
    (folder,) = (tmp_path / "out").iterdir()
    assert (folder / "vda" / "vda.raw").read_bytes() == truth(shared.image)
    assert (folder / "domain.xml").read_text() == "<domain/>"
    shared.restic("check", "--read-data")
    assert report.restore_point.vm_uuid == UUID
