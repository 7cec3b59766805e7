# SPDX-License-Identifier: Apache-2.0
"""Killed at any point, a backup leaves a repository that is sound, and the next one succeeds."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from donjon.repository.lock import unlock
from donjon.repository.repository import Repository
from donjon.repository.stores.local import LocalStore
from tests.sweep import crash_driver
from tests.unit.repository.disks import PASSWORD, Disk, alone, back_up, new_repository, random_disk, restored, save_disk

ROOT = Path(crash_driver.__file__).parents[2]


def run_driver(place: Path, seed: int, where: str, number: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, crash_driver.__file__, str(place), str(seed), where, str(number)],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A repository with one restore point, and its id."""
    place = tmp_path_factory.mktemp("crash") / "repository"
    return place, back_up(new_repository(LocalStore(place)), Disk(random_disk(1))).snapshot


def check_with_restic(place: Path) -> None:
    if shutil.which("restic") is None:
        return
    done = subprocess.run(
        ["restic", "-r", str(place), "--no-cache", "check", "--read-data"],
        env=os.environ | {"RESTIC_PASSWORD": PASSWORD},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def check_survives(place: Path, before: str, seed: int) -> None:
    """The repository is sound, what was in it is, and a new backup goes well."""
    repository = Repository.open(LocalStore(place), PASSWORD)
    unlock(repository.files)
    check_with_restic(place)
    assert restored(repository, before) == random_disk(1)
    for snapshot in {name for name, _ in repository.snapshots()} - {before}:
        assert restored(repository, snapshot) == random_disk(seed)
    again = back_up(repository, Disk(random_disk(seed)), options=crash_driver.OPTIONS)
    anew = Repository.open(LocalStore(place), PASSWORD)
    assert restored(anew, again.snapshot) == random_disk(seed)


@pytest.mark.parametrize("where", ["trace", "before", "after"])
def test_killed_anywhere_nothing_is_lost(tmp_path: Path, first: tuple[Path, str], where: str) -> None:
    place, before = first
    shutil.copytree(place, tmp_path / "whole")
    whole = run_driver(tmp_path / "whole", 2, where, 0)
    assert whole.returncode == 0, whole.stderr
    points = int(whole.stdout)
    assert points >= 12
    # A sample, but all of the end, where the commit is.
    numbers = {*range(1, points + 1, 6), *range(max(1, points - 6), points + 1)}
    for number in sorted(numbers):
        shutil.copytree(place, tmp_path / "killed")
        died = run_driver(tmp_path / "killed", 2, where, number)
        assert died.returncode == -signal.SIGKILL, died.stderr
        check_survives(tmp_path / "killed", before, 2)
        shutil.rmtree(tmp_path / "killed")


def test_what_a_killed_backup_had_indexed_is_not_stored_again(tmp_path: Path) -> None:
    repository = new_repository(LocalStore(tmp_path / "repository"))
    disk = random_disk(3)
    with alone(repository, crash_driver.OPTIONS) as writer:
        save_disk(writer, Disk(disk))
        writer.flush()
    anew = Repository.open(LocalStore(tmp_path / "repository"), PASSWORD)
    saved = back_up(anew, Disk(disk))
    assert saved.written.data_blobs == 0
    assert restored(anew, saved.snapshot) == disk
