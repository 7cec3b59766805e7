# SPDX-License-Identifier: Apache-2.0
"""What a backup did, for people and programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from donjon.backup.backup import BackupReport, DiskReport
from donjon.cli.page import Page
from donjon.cli.result import Deed, Failure, Point, describe_point
from donjon.cli.text import count, duration, moment, size
from donjon.errors import DonjonError, IncompleteError
from donjon.model.restore_point import Consistency, LeftOut


@dataclass(frozen=True, slots=True)
class BackedUpVm:
    """One VM's backup; sizes in bytes. `still_s` is how long its disks were held at one moment.

    `frozen_s` is how long the guest's file systems were frozen, null if they were not. VMs taken at one moment have the
    same `group`.
    """

    restore_point: Point
    disks: tuple[DiskReport, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    stored: int
    still_s: float
    duration_s: float
    frozen_s: float | None
    group: str | None


@dataclass(frozen=True, slots=True)
class FailedVm:
    """A VM that was not backed up, and why; or, with exit code 3, one that was but could not be put back."""

    vm: str
    failure: Failure

    @property
    def has_restore_point(self) -> bool:
        """Whether only what comes after the restore point failed."""
        return self.failure.exit_code == IncompleteError.exit_code


@dataclass(frozen=True, slots=True)
class BackedUp(Deed):
    """All that was backed up, and what was not."""

    backups: tuple[BackedUpVm, ...]
    failed: tuple[FailedVm, ...]

    def show(self, page: Page) -> None:
        """A paragraph for each VM."""
        for number, backup in enumerate(self.backups):
            if number:
                page.line()
            _show(page, backup)
        for group in sorted({backup.group for backup in self.backups if backup.group}):
            names = ", ".join(it.restore_point.vm_name for it in self.backups if it.group == group)
            page.line()
            page.line(f"taken at one moment: {names} (group {group})")
        for failed in self.failed:
            page.line()
            _show_failed(page, failed)
        if self.failed:
            total = len(self.backups) + len(self.failed)
            page.line()
            made = len(self.backups) + sum(failed.has_restore_point for failed in self.failed)
            page.line(f"{made} of {count(total, 'VM')} backed up")

    @property
    def exit_code(self) -> int:
        """3 if some VMs were backed up and others not; if none was, what they all failed with."""
        if not self.failed:
            return 0
        codes = {failed.failure.exit_code for failed in self.failed}
        if self.backups or IncompleteError.exit_code in codes:
            return IncompleteError.exit_code
        return codes.pop() if len(codes) == 1 else DonjonError.exit_code


def describe_backup(reports: Sequence[BackupReport], failed: Sequence[FailedVm]) -> BackedUp:
    """The outcome as it is shown."""
    return BackedUp(
        tuple(
            BackedUpVm(
                restore_point=describe_point(report.restore_point),
                disks=report.disks,
                left_out=report.left_out,
                notes=report.notes,
                stored=report.stored,
                still_s=report.still_s,
                duration_s=report.duration_s,
                frozen_s=report.frozen_s,
                group=report.group,
            )
            for report in reports
        ),
        tuple(failed),
    )


def _show_failed(page: Page, failed: FailedVm) -> None:
    what = "backed up, but incomplete" if failed.has_restore_point else "not backed up"
    page.line(f"{what}: {failed.vm}: {failed.failure.error}", bold=True)
    for note in failed.failure.notes:
        page.line(f"  {note}")
    if failed.failure.hint:
        page.line(f"  hint: {failed.failure.hint}")


def warnings_of(report: BackupReport, least: Consistency) -> Iterator[str]:
    """What the operator must not overlook, a sentence each; `least` is the consistency that was hoped for."""
    name = report.restore_point.vm_name
    for disk in report.disks:
        if disk.mismatch:
            yield (
                f"{name}: disk {disk.target} has changed where nothing said so: all of it was read, and this restore "
                f"point is right; earlier ones need not be ({disk.reason})"
            )
    reached = report.restore_point.consistency
    if Consistency[reached.upper()] < least:
        yield f"{name}: only {reached} consistency was reached, not {least.name.lower()}"


def _show(page: Page, backup: BackedUpVm) -> None:
    point = backup.restore_point
    page.line(
        f"{point.vm_name}: restore point {point.short_id}, {moment(point.taken_at)}, {point.consistency}", bold=True
    )
    for disk in backup.disks:
        if disk.mismatch:
            page.line(
                f"  MISMATCH: disk {disk.target} has changed where nothing said so; all of it was read", bold=True
            )
    rows = [
        (d.target, size(d.size), size(d.read), size(d.kept), size(d.zero), size(d.added), size(d.stored), d.reason)
        for d in backup.disks
    ]
    headings = ("disk", "size", "read", "unchanged", "zero", "new", "stored", "why")
    page.table(headings, rows, right=headings[1:-1], indent="  ")
    for left_out in backup.left_out:
        page.line(f"  {left_out.target} left out: {left_out.reason}")
    for note in backup.notes:
        page.line(f"  note: {note}")
    if compared := sum(disk.compared for disk in backup.disks):
        page.line(f"  {size(compared)} of what is said to be unchanged was read and compared")
    total = sum(disk.size for disk in backup.disks)
    if backup.frozen_s is not None:
        held = f"frozen for {backup.frozen_s:.2f} s, read for {duration(backup.still_s)}"
    elif point.method == "live":
        held = f"not frozen, read for {duration(backup.still_s)}"
    else:
        held = f"held still for {duration(backup.still_s)}"
    page.line(f"  {size(backup.stored)} stored for {size(total)}, {held}, {duration(backup.duration_s)} in all")
