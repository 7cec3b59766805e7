# SPDX-License-Identifier: Apache-2.0
"""One disk of a restore point goes to a file, a device or a stream, byte for byte."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from donjon.errors import ConfigError, RefusedError
from donjon.model.restore_point import DiskPoint
from donjon.restore.disk import find_disk, restore_disk
from donjon.restore_points import load_manifest
from tests.unit.backup.site import MIB, Site, disk, machine, new_qcow2, qemu, truth


class Kept(Site):
    """A site whose VM has one restore point."""

    def __init__(self, folder: Path) -> None:
        image = new_qcow2(folder)
        super().__init__(machine(disk("vda", image)))
        self.point = self.back_up().restore_point
        self.manifest = load_manifest(self.repository, self.point)
        self.disk: DiskPoint = find_disk(self.manifest, "vda")
        self.content = truth(image)

    def restore(self, path: Path, image_format: str, *, exist_ok: bool = False) -> None:
        restore_disk(
            self.repository,
            self.point,
            self.disk,
            path,
            image_format=image_format,
            exist_ok=exist_ok,
            progress=lambda _: None,
        )


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def test_a_raw_file_has_holes_where_the_disk_is_empty(kept: Kept, tmp_path: Path) -> None:
    path = tmp_path / "new.raw"
    kept.restore(path, "raw")
    assert path.read_bytes() == kept.content
    assert path.stat().st_blocks * 512 <= 3 * MIB


def test_a_qcow2_file_is_as_the_disk(kept: Kept, tmp_path: Path) -> None:
    path = tmp_path / "new.qcow2"
    kept.restore(path, "qcow2")
    assert truth(path) == kept.content
    qemu("qemu-img", "check", path)


def test_a_file_is_replaced_only_if_that_is_wanted(kept: Kept, tmp_path: Path) -> None:
    path = tmp_path / "new.raw"
    path.write_bytes(b"precious")
    with pytest.raises(RefusedError):
        kept.restore(path, "raw")
    assert path.read_bytes() == b"precious"
    kept.restore(path, "raw", exist_ok=True)
    assert path.read_bytes() == kept.content


def test_standard_output_gets_every_byte(tmp_path: Path) -> None:
    """In a process of its own, whose standard output is a pipe."""
    program = f"""
import sys
from pathlib import Path
sys.path.insert(0, {os.getcwd()!r})
from donjon.restore.disk import restore_disk_to_stdout
from tests.unit.restore.test_disk import Kept
kept = Kept(Path({str(tmp_path)!r}))
restore_disk_to_stdout(kept.repository, kept.point, kept.disk, progress=lambda _: None)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert done.stdout == truth(tmp_path / "disk.qcow2")


def test_a_disk_that_is_not_there_is_named_with_those_that_are(kept: Kept) -> None:
    with pytest.raises(ConfigError, match="vdb") as error:
        find_disk(kept.manifest, "vdb")
    assert "vda" in (error.value.hint or "")


@pytest.mark.root
def test_a_device_is_overwritten_zeros_included(kept: Kept, device: Path) -> None:
    kept.restore(device, "raw")
    content = device.read_bytes()
    assert content[: len(kept.content)] == kept.content
