# SPDX-License-Identifier: Apache-2.0
"""A restore point whose tags somebody has replaced is found by what it says of itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from donjon.model.restore_point import RestorePoint
from donjon.repository.format.snapshot import encode_snapshot
from donjon.repository.store import FileName, FileType
from donjon.restore_points import survey_restore_points
from tests.unit.backup.site import Site, disk, machine, new_raw


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(machine(disk("vda", new_raw(tmp_path))))


def change_tags(site: Site, point: RestorePoint, program: str | None = None, tree: str | None = None) -> RestorePoint:
    """As `restic tag --set` does; the restore point that there should be now."""
    snapshot = site.repository.load_snapshot(point.id)
    changed = msgspec.structs.replace(
        snapshot,
        tags=["kept"],
        original=point.id,
        program_version=snapshot.program_version if program is None else program,
        summary=None if program == "" else snapshot.summary,
        tree=tree or snapshot.tree,
    )
    name = site.repository.files.save(FileType.SNAPSHOT, encode_snapshot(changed))
    site.repository.store.delete(FileName(FileType.SNAPSHOT, point.id))
    return replace(point, id=name)


def test_a_restore_point_without_its_tags_is_the_same(site: Site) -> None:
    expected = change_tags(site, site.back_up().restore_point)
    assert survey_restore_points(site.repository) == ((expected,), ())


def test_a_snapshot_by_another_program_is_not_looked_into(site: Site) -> None:
    change_tags(site, site.back_up().restore_point, program="restic 0.18.0", tree="ab" * 32)
    assert survey_restore_points(site.repository) == ((), ())


def test_a_restore_point_rewritten_by_an_old_restic_is_the_same(site: Site) -> None:
    """Which knows nothing of programs and summaries."""
    expected = change_tags(site, site.back_up().restore_point, program="")
    assert survey_restore_points(site.repository) == ((expected,), ())


def test_one_that_is_damaged_as_well_hides_no_other(site: Site) -> None:
    lost = change_tags(site, site.back_up().restore_point, tree="ab" * 32)
    whole = site.back_up().restore_point
    points, damaged = survey_restore_points(site.repository)
    assert points == (whole,)
    assert len(damaged) == 1
    assert lost.id[:8] in damaged[0]
