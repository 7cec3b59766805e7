# SPDX-License-Identifier: Apache-2.0
"""What any release has ever written, this one reads, and so does restic."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from donjon.repository.repository import Repository
from donjon.repository.store import FileType
from donjon.repository.stores.local import LocalStore
from tests.interop.stock_restic import Restic
from tests.unit.repository.disks import PASSWORD, Disk, back_up, load_map, random_disk, restored

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
releases = pytest.mark.parametrize("release", sorted(path.parent.name for path in GOLDEN.glob("*/points.json")))


def points_of(release: str) -> dict[str, dict[str, str]]:
    points: dict[str, dict[str, str]] = json.loads((GOLDEN / release / "points.json").read_text())
    return points


@pytest.fixture
def place(release: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / release / "repository", tmp_path / "repository"))


def test_there_is_a_golden_repository() -> None:
    assert list(GOLDEN.glob("*/points.json"))


@releases
def test_every_restore_point_comes_back(release: str, place: Path) -> None:
    repository = Repository.open(LocalStore(place), PASSWORD)
    assert {name for name, _ in repository.snapshots()} == points_of(release).keys()
    for snapshot, expected in points_of(release).items():
        content = restored(repository, snapshot, expected["name"])
        assert hashlib.sha256(content).hexdigest() == expected["sha256"]


@releases
def test_a_backup_builds_upon_it(release: str, place: Path) -> None:
    repository = Repository.open(LocalStore(place), PASSWORD)
    snapshot = next(iter(points_of(release)))
    with load_map(repository, snapshot, "web") as previous:
        saved = back_up(repository, Disk(random_disk(1)), name="web", previous=previous)
    assert saved.written.data_blobs == 0
    assert restored(repository, saved.snapshot, "web") == random_disk(1)


@releases
def test_it_is_small(release: str) -> None:
    assert sum(path.stat().st_size for path in (GOLDEN / release).rglob("*") if path.is_file()) <= 300 << 10


@pytest.mark.interop
@releases
def test_restic_agrees(release: str, place: Path, binary: str) -> None:
    restic = Restic(binary, place)
    (place / FileType.LOCK.value).mkdir(exist_ok=True)
    restic.check()
    for snapshot, expected in points_of(release).items():
        dumped = subprocess.run(
            restic.command("dump", "--archive", "tar", snapshot, "/"), env=restic.env, capture_output=True, check=True
        )
        assert dumped.stdout
        name = expected["name"]
        if name == "web":
            assert (
                hashlib.sha256(restic.run("dump", snapshot, f"/{name}/vda/vda.raw")).hexdigest() == expected["sha256"]
            )
