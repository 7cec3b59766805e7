# SPDX-License-Identifier: Apache-2.0
"""How well each VM is protected: its last backup, its last proven restore, when its bytes were last compared."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

from cyclopts import Parameter

from donjon.cli.options import COMMON, Common, Given, NoLock
from donjon.cli.page import Page
from donjon.cli.result import Point, Result, describe_point
from donjon.cli.session import Session
from donjon.cli.text import duration, moment, utc
from donjon.errors import ConfigError, IntegrityError
from donjon.model.restore_point import Manifest, RestorePoint
from donjon.model.restore_point_spec import find_restore_point
from donjon.repository.repository import Repository
from donjon.restore_points import load_manifest
from donjon.state.drills import DrillResult

_LOOKED_AT = 30
"""Of a VM's last restore points, for blocks that were said to be unchanged and were not."""

_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@dataclass(frozen=True, slots=True)
class Proof:
    """A drill that was passed: when, and of which restore point."""

    at: datetime
    restore_point: str
    taken_at: datetime
    duration_s: float


@dataclass(frozen=True, slots=True)
class VmStatus:
    """A VM; `age_s` of its last good backup in seconds.

    `all_compared_since`: each byte of its disks was read and compared at that time or later; None: not known.
    `warnings` are what should be looked into; `failures` what was asked not to be so.
    """

    vm_name: str
    vm_uuid: str
    last_backup: Point | None
    age_s: float | None
    last_proven: Proof | None
    last_drill_passed: bool | None
    all_compared_since: datetime | None
    warnings: tuple[str, ...]
    failures: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Protection(Result):
    """All VMs that have restore points, by name."""

    repository: str
    at: datetime
    vms: tuple[VmStatus, ...]

    def show(self, page: Page) -> None:
        """A table, and what should be looked into."""
        rows = [
            (
                vm.vm_name,
                moment(vm.last_backup.taken_at) if vm.last_backup else "none",
                _age(vm.age_s),
                vm.last_backup.consistency if vm.last_backup else "-",
                moment(vm.last_proven.at) if vm.last_proven else "never",
                moment(vm.all_compared_since) if vm.all_compared_since else "unknown",
            )
            for vm in self.vms
        ]
        if not rows:
            page.line("no restore points yet; `donjon backup` makes one")
            return
        headings = ("VM", "last backup", "age", "consistency", "restore last proven", "all compared since")
        page.table(headings, rows, right={"age"})
        for vm in self.vms:
            for sentence in vm.warnings:
                page.line(f"warning: {vm.vm_name}: {sentence}")
            for sentence in vm.failures:
                page.line(f"FAILED: {vm.vm_name}: {sentence}", bold=True)

    @property
    def exit_code(self) -> int:
        """1 if something is not as it was asked to be."""
        return 1 if any(vm.failures for vm in self.vms) else 0


def status(
    *vms: Annotated[str, Parameter(metavar="VM", help="Only these; names or UUIDs.")],
    fail_if_older: Annotated[
        str | None, Parameter(metavar="AGE", help="Exit code 1 if a last backup is older: 90m, 26h, 2d, 1w.")
    ] = None,
    fail_if_unproven: Annotated[
        str | None, Parameter(metavar="AGE", help="Exit code 1 if the last drill that was passed is older, or failed.")
    ] = None,
    no_lock: NoLock = False,
    common: Common = COMMON,
    program: Given,
) -> Protection:
    """Show how well each VM is protected.

    Of each VM: its last good backup, the last restore that a drill on this host has proven, and since when every byte
    of its disks has been compared with what the repository has. `donjon vms` also shows VMs that have no backup.

    Examples:
        donjon status

        donjon status web01 --fail-if-older 26h --fail-if-unproven 30d --json
    """
    limits = _Limits(_parse_age(fail_if_older), _parse_age(fail_if_unproven))
    session = Session(common, program)
    with session.reading(no_lock=no_lock) as repository:
        points = session.restore_points(repository)
        for vm in vms:
            if not any(vm in (point.vm_name, point.vm_uuid) for point in points):
                find_restore_point(points, vm)  # says that there is none, and what there is
        own = [result for result in program.drills.list() if result.repository_id == repository.config.id]
        now = datetime.now(UTC)
        found = [
            _status(repository, of_vm, [result for result in own if result.vm_uuid == uuid], now, limits)
            for uuid, of_vm in _by_vm(points).items()
            if not vms or {uuid, of_vm[-1].vm_name} & set(vms)
        ]
    found.sort(key=lambda vm: (vm.vm_name, vm.vm_uuid))
    return Protection(repository.store.location, now, tuple(found))


@dataclass(frozen=True, slots=True)
class _Limits:
    """What may be how old."""

    backup: timedelta | None
    proof: timedelta | None


def _by_vm(points: Sequence[RestorePoint]) -> dict[str, list[RestorePoint]]:
    found: dict[str, list[RestorePoint]] = {}
    for point in points:
        found.setdefault(point.vm_uuid, []).append(point)
    return found


def _status(
    repository: Repository, points: list[RestorePoint], drills: list[DrillResult], now: datetime, limits: _Limits
) -> VmStatus:
    good, warnings = _survey(repository, points)
    last, manifest = good[0] if good else (None, None)
    passed = [result for result in drills if result.passed]
    if drills and not drills[-1].passed:
        warnings.append(f"the last drill, on {moment(drills[-1].begun_at)}, failed: {_failed_checks(drills[-1])}")
    age = now - last.taken_at if last else None
    return VmStatus(
        vm_name=describe_point(points[-1]).vm_name,
        vm_uuid=points[-1].vm_uuid,
        last_backup=describe_point(last) if last else None,
        age_s=age.total_seconds() if age else None,
        last_proven=_proof(passed[-1]) if passed else None,
        last_drill_passed=drills[-1].passed if drills else None,
        all_compared_since=_compared(manifest),
        warnings=tuple(warnings),
        failures=tuple(_failures(age, drills, now, limits)),
    )


def _survey(
    repository: Repository, points: list[RestorePoint]
) -> tuple[list[tuple[RestorePoint, Manifest]], list[str]]:
    """The last restore points that can be read, newest first, and what is wrong with them or others."""
    good: list[tuple[RestorePoint, Manifest]] = []
    warnings = []
    for point in reversed(points[-_LOOKED_AT:]):
        try:
            manifest = load_manifest(repository, point)
        except IntegrityError as error:
            warnings.append(f"the restore point {point.id[:8]} is damaged: {error}; run `donjon check`")
            continue
        good.append((point, manifest))
        if wrong := [disk.target for disk in manifest.disks if disk.mismatch]:
            warnings.append(
                f"on {moment(point.taken_at)} blocks of {', '.join(wrong)} were not what they were said to be; restore"
                f" points before {point.id[:8]} may be wrong there"
            )
    return good, warnings


def _failures(age: timedelta | None, drills: list[DrillResult], now: datetime, limits: _Limits) -> list[str]:
    failures = []
    if limits.backup is not None and (age is None or age > limits.backup):
        failures.append(
            "there is no good backup" if age is None else f"the last backup is {_age(age.total_seconds())} old"
        )
    if limits.proof is not None:
        last = drills[-1] if drills else None
        if last is None:
            failures.append("no restore was ever proven")
        elif not last.passed:
            failures.append("the last drill failed")
        elif (old := now - last.begun_at) > limits.proof:
            failures.append(f"the last proven restore is {_age(old.total_seconds())} old")
    return failures


def _compared(manifest: Manifest | None) -> datetime | None:
    """Since when all of every disk has been; None if that of one is not known."""
    if manifest is None or not manifest.disks:
        return None
    times = [disk.all_compared_since for disk in manifest.disks]
    known = [utc(time) for time in times if time is not None]
    return min(known) if len(known) == len(times) else None


def _proof(result: DrillResult) -> Proof:
    return Proof(utc(result.begun_at), result.point, utc(result.taken_at), result.duration_s)


def _failed_checks(result: DrillResult) -> str:
    return "; ".join(f"{check.name}: {check.evidence}" for check in result.checks if not check.passed)


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return duration(seconds) if seconds < 2 * _UNITS["d"] else f"{seconds / _UNITS['d']:.0f} d"


def _parse_age(text: str | None) -> timedelta | None:
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,6})([mhdw])", text)
    if not found:
        raise ConfigError(f"cannot tell what age {text!r} is", hint="say 90m, 26h, 2d or 1w")
    return timedelta(seconds=int(found[1]) * _UNITS[found[2]])
