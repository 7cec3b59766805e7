# SPDX-License-Identifier: Apache-2.0
"""An operator, and a monitoring system, see how well each VM is protected, and what drills have proven."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from donjon.model.restore_point import Comparison, DiskPoint, Manifest, RestorePoint
from donjon.repository.repository import Repository
from donjon.repository.stores.local import LocalStore
from donjon.repository.writer import WriteOptions, writing
from donjon.restore_points import save_restore_point, survey_restore_points
from donjon.state.drills import CheckResult, DrillResult, Drills
from tests.unit.cli.conftest import CHEAP, PASSWORD, Cli
from tests.unit.cli.test_round_trip import DEFINITION

HOUR = timedelta(hours=1)
GOOD, BAD = CheckResult("agent answers", True, "it answers"), CheckResult("agent answers", False, "it does not")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that nobody changes."""
    home = tmp_path_factory.mktemp("prepared")
    Repository.create(LocalStore(home / "repo"), PASSWORD, scrypt=CHEAP)
    for age in (40 * HOUR, 30 * HOUR):
        taken(home, "damaged", age)
        taken(home, "old", age)
    taken(home, "mismatched", 2 * HOUR, mismatch=True)
    for vm in ("web00", "web01", "mismatched"):
        taken(home, vm)
    taken(home, "compared", compared=(HOUR, 5 * HOUR))
    taken(home, "unknown", compared=(HOUR, None))
    packs = set((home / "repo/data").glob("*/*"))
    taken(home, "damaged", HOUR)
    for pack in set((home / "repo/data").glob("*/*")) - packs:
        pack.chmod(0o600)
        pack.write_bytes(bytes(pack.stat().st_size))
    return home


@pytest.fixture
def backed_up(fresh: Cli, prepared: Path) -> Cli:
    fresh.environ["DONJON_REPOSITORY"] = str(prepared / "repo")
    return fresh


def opened(home: Path) -> Repository:
    return Repository.open(LocalStore(home / "repo"), PASSWORD)


def taken(
    home: Path,
    vm: str,
    age: timedelta = timedelta(),
    *,
    mismatch: bool = False,
    compared: tuple[timedelta | None, ...] = (timedelta(),),
) -> RestorePoint:
    """A restore point of a VM as old as that, whose disks were compared so long ago."""
    at = datetime.now(UTC) - age
    disks = tuple(
        DiskPoint(
            f"vd{chr(ord('a') + number)}", "/x", 1, 1, None, "raw", {}, mismatch=mismatch,
            comparisons=() if ago is None else (Comparison(0, 1, int((at - ago).timestamp())),),
        )
        for number, ago in enumerate(compared)
    )  # fmt: skip
    uuid = f"1111-{vm}"
    manifest = Manifest(1, "donjon", uuid, vm, "host", at, "live", "filesystem", disks)
    with writing(opened(home), WriteOptions(workers=1)) as writer:
        return save_restore_point(
            writer,
            manifest,
            definition=DEFINITION.format(image="/x").replace("web01", vm),
            disks={},
            files=None,
            begun_at=at,
            previous=None,
            previous_disks={},
        )


def drilled(prepared: Path, home: Path, *checks: CheckResult, ago: timedelta, vm: str = "web00") -> DrillResult:
    """A drill of a VM's last restore point that was held some time ago."""
    repository, begun = opened(prepared), datetime.now(UTC) - ago
    point = [point for point in survey_restore_points(repository).points if point.vm_name == vm][-1]
    result = DrillResult(
        f"{begun.microsecond:08}", point.vm_uuid, vm, repository.config.id, point.id, point.id, point.taken_at,
        "host", begun, "donjon", checks, 0.5, 3.0, 4.0,
    )  # fmt: skip
    Drills(home / "state/drills").save(result)
    return result


def of(cli: Cli, name: str, *words: str, exit_code: int = 0) -> Any:
    outcome = cli("status", "--json", "--no-lock", *words)
    assert outcome.exit_code == exit_code, outcome.err
    return next(vm for vm in outcome.json["vms"] if vm["vm_name"] == name)


def test_a_fresh_backup_is_shown_with_its_age_and_comparison(backed_up: Cli) -> None:
    vm = of(backed_up, "web00")
    assert 0 <= vm["age_s"] < 600
    assert vm["last_backup"]["vm_name"] == "web00"
    assert vm["last_proven"] is None
    assert vm["last_drill_passed"] is None
    assert vm["warnings"] == vm["failures"] == []
    assert datetime.now(UTC) - datetime.fromisoformat(vm["all_compared_since"]) < HOUR
    said = backed_up("status", "web01", "web00")
    assert said.exit_code == 0
    assert [line.split()[0] for line in said.out.splitlines()] == ["VM", "web00", "web01"]
    assert "never" in said.out


def test_monitoring_learns_of_backups_that_are_too_old(backed_up: Cli) -> None:
    assert of(backed_up, "web00", "web00", "--fail-if-older", "1h")["failures"] == []
    assert of(backed_up, "old", "old", "--fail-if-older", "31h")["failures"] == []
    vm = of(backed_up, "old", "--fail-if-older", "29h", exit_code=1)
    assert vm["failures"] == ["the last backup is 30 h 0 min old"]
    assert "FAILED: old" in backed_up("status", "--no-lock", "--fail-if-older", "1d").out


def test_a_drill_that_was_passed_is_the_last_proof(backed_up: Cli, prepared: Path, home: Path) -> None:
    result = drilled(prepared, home, GOOD, ago=2 * HOUR)
    vm = of(backed_up, "web00", "web00", "--fail-if-unproven", "3h")
    assert vm["last_proven"]["restore_point"] == result.point
    assert vm["last_drill_passed"] is True
    failures = of(backed_up, "web00", "web00", "--fail-if-unproven", "1h", exit_code=1)["failures"]
    assert failures == ["the last proven restore is 2 h 0 min old"]
    assert of(backed_up, "web01", "--fail-if-unproven", "3h", exit_code=1)["failures"] == ["no restore was ever proven"]


def test_a_drill_that_failed_since_is_no_proof(backed_up: Cli, prepared: Path, home: Path) -> None:
    drilled(prepared, home, GOOD, ago=2 * HOUR)
    drilled(prepared, home, BAD, ago=HOUR)
    vm = of(backed_up, "web00", "--fail-if-unproven", "3h", exit_code=1)
    assert vm["last_proven"] is not None
    assert vm["last_drill_passed"] is False
    assert vm["failures"] == ["the last drill failed"]
    assert "agent answers: it does not" in vm["warnings"][0]


def test_a_drill_of_another_repository_proves_nothing_here(backed_up: Cli, prepared: Path, home: Path) -> None:
    result = drilled(prepared, home, GOOD, ago=HOUR)
    Drills(home / "state/drills").save(replace(result, repository_id="f" * 64))
    assert of(backed_up, "web00")["last_proven"] is None


def test_blocks_that_were_not_what_they_were_said_to_be_are_told_though_backups_followed(backed_up: Cli) -> None:
    (warning,) = of(backed_up, "mismatched")["warnings"]
    assert "blocks of vda were not what they were said to be" in warning


def test_a_vm_is_compared_when_the_last_of_its_disks_was(backed_up: Cli) -> None:
    since = datetime.now(UTC) - datetime.fromisoformat(of(backed_up, "compared")["all_compared_since"])
    assert 4 * HOUR < since < 6 * HOUR
    assert of(backed_up, "unknown")["all_compared_since"] is None


def test_a_restore_point_that_is_damaged_is_not_the_last_good_backup(backed_up: Cli) -> None:
    vm = of(backed_up, "damaged", "--fail-if-older", "2h", exit_code=1)
    assert vm["age_s"] > 29 * HOUR.total_seconds()
    assert "is damaged" in vm["warnings"][0]


@pytest.mark.parametrize("age", ["1", "1y", "-1h", "", "99999999h"])
def test_an_age_that_makes_no_sense_is_refused(backed_up: Cli, age: str) -> None:
    outcome = backed_up("status", f"--fail-if-older={age}")
    assert outcome.exit_code == 1
    assert "cannot tell what age" in outcome.err


def test_a_vm_that_is_not_known_is_an_error_for_monitoring(backed_up: Cli) -> None:
    outcome = backed_up("status", "web77", "--fail-if-older", "1h")
    assert outcome.exit_code == 1
    assert "web77" in outcome.err


def test_drills_are_listed(backed_up: Cli, prepared: Path, home: Path) -> None:
    assert "no drills yet" in backed_up("drill", "--list").out
    drilled(prepared, home, GOOD, ago=2 * HOUR)
    drilled(prepared, home, BAD, ago=HOUR, vm="web01")
    listed = backed_up("drill", "--list", "--json").json["drills"]
    assert [(drill["vm_name"], drill["passed"]) for drill in listed] == [("web00", True), ("web01", False)]
    assert backed_up("drill", "web01", "--list").out.splitlines()[1].endswith("agent answers")


def test_a_drill_that_could_not_fail_is_refused(backed_up: Cli) -> None:
    outcome = backed_up("drill", "web00")
    assert outcome.exit_code == 1
    assert "nothing would be checked" in outcome.err
    assert backed_up("drill").exit_code == 1


@pytest.mark.parametrize("word", ["services", "scripts", "files", "console"])
def test_what_the_configuration_wants_checked_is(backed_up: Cli, home: Path, word: str) -> None:
    (home / "c.toml").write_text(f'[drill.web00]\n{word} = ["/x"]\n')
    outcome = backed_up("drill", "web00", "--config", home / "c.toml")
    assert outcome.exit_code == 1
    assert "nothing would be checked" not in outcome.err


def test_a_witness_is_named_from_the_root_of_the_guest(backed_up: Cli) -> None:
    outcome = backed_up("backup", "web00", "--witness", "etc/hostname")
    assert outcome.exit_code == 1
    assert "etc/hostname" in outcome.err
