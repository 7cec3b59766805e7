# SPDX-License-Identifier: Apache-2.0
"""Repositories that donjon wrote, and every restic that this machine has to try on them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from donjon.repository.repository import Repository
from donjon.repository.stores.local import LocalStore
from tests.interop.stock_restic import Restic, binaries, version_of
from tests.unit.repository.disks import PASSWORD, Disk, back_up, new_repository, random_bytes

KIB512 = 512 << 10


class Ours(NamedTuple):
    """A repository of donjon's: for each snapshot the name of the VM and what its disk then held."""

    place: Path
    points: dict[str, tuple[str, bytes]]

    def open(self) -> Repository:
        return Repository.open(LocalStore(self.place), PASSWORD)


def disk_at(day: int) -> bytes:
    """A disk with holes, of which something changes every day."""
    blocks = [random_bytes(KIB512, number) for number in range(3)] + [bytes(KIB512)] * 4
    blocks[day % 3] = random_bytes(KIB512, 100 + day)
    return b"".join(blocks) + random_bytes(12345, 7)


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Ours:
    place = tmp_path_factory.mktemp("ours") / "repository"
    repository = new_repository(LocalStore(place))
    points = {}
    for day in range(3):
        for name in ("web", 'd"b é'):
            content = disk_at(day)
            points[back_up(repository, Disk(content), name=name, block_size=KIB512).snapshot] = (name, content)
    return Ours(place, points)


@pytest.fixture
def ours(original: Ours, tmp_path: Path) -> Ours:
    """A copy to do anything to."""
    return Ours(Path(shutil.copytree(original.place, tmp_path / "repository")), original.points)


@pytest.fixture(params=binaries(), ids=lambda binary: "restic {}.{}".format(*version_of(binary)))
def binary(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def restic(binary: str, ours: Ours) -> Restic:
    return Restic(binary, ours.place)
