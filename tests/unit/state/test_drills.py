# SPDX-License-Identifier: Apache-2.0
"""Results of drills are kept, whole; old ones go, but never the last that proves a VM."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from donjon.errors import HostError
from donjon.state.drills import KEPT, CheckResult, DrillResult, Drills

BEGUN = datetime(2026, 11, 23, 8, tzinfo=UTC)
GOOD, BAD = CheckResult("agent", True, "it answers"), CheckResult("agent", False, "it does not")
RESULT = DrillResult(
    "aaaa", "1111", "web01", "repo", "p" * 64, "p" * 64, BEGUN, "host", BEGUN, "donjon", (GOOD,), 0.5, 3.0, 4.0, ("a",)
)


@pytest.fixture
def drills(tmp_path: Path) -> Drills:
    return Drills(tmp_path / "state" / "drills")


def numbered(number: int, *checks: CheckResult) -> DrillResult:
    return replace(RESULT, id=f"{number:04}", begun_at=BEGUN + timedelta(minutes=number), checks=checks)


def test_what_is_kept_is_found_oldest_first(drills: Drills) -> None:
    assert drills.list() == []
    later = numbered(1, BAD)
    drills.save(later)
    drills.save(RESULT, b"picture")
    assert drills.list() == [RESULT, later]
    assert drills.picture_path(RESULT).read_bytes() == b"picture"
    assert drills.directory.stat().st_mode & 0o777 == 0o700


def test_nothing_checked_is_nothing_passed() -> None:
    assert RESULT.passed
    assert not replace(RESULT, checks=()).passed
    assert not replace(RESULT, checks=(GOOD, BAD)).passed


def test_old_ones_go_but_the_last_proof_stays(drills: Drills) -> None:
    other = replace(RESULT, vm_uuid="2222", id="bbbb")
    drills.save(other)
    for number in range(KEPT + 3):
        drills.save(numbered(number, GOOD if number == 1 else BAD), b"picture")
    kept = drills.list()
    assert other in kept
    own = [int(result.id) for result in kept if result.vm_uuid == "1111"]
    assert own == [1, *range(3, KEPT + 3)]
    assert len(list(drills.directory.glob("*.png"))) == KEPT + 1


def test_a_result_that_cannot_be_read_is_named(drills: Drills) -> None:
    drills.save(RESULT)
    (path,) = drills.directory.iterdir()
    path.write_text("{")
    with pytest.raises(HostError, match=path.name):
        drills.list()
    path.unlink()
    (drills.directory / f"{path.name}.unfinished").write_text("{")
    assert drills.list() == []


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="cannot keep the result"):
        Drills(tmp_path / "file" / "drills").save(RESULT)
