# SPDX-License-Identifier: Apache-2.0
"""What a restore did, for people and programs."""

from __future__ import annotations

from dataclasses import dataclass

from donjon.cli.page import Page
from donjon.cli.result import Deed, Failure, Point, describe_point
from donjon.cli.text import moment, size
from donjon.errors import IncompleteError
from donjon.restore.in_place import RollBackReport, RolledBack
from donjon.restore.whole_vm import RestoredDisk, RestoreReport


@dataclass(frozen=True, slots=True)
class Start:
    """Whether the VM was started, or why it could not be."""

    done: bool = False
    failed: Failure | None = None


@dataclass(frozen=True, slots=True)
class Restored(Deed):
    """What was restored, where it is, and what became of the VM; sizes in bytes.

    `disks` are new files and devices, `rolled_back` disks that were put back in place. `definition` is the path of the
    VM's definition. `not_started` says why a VM that was to be started is restored, but not on.
    """

    restore_point: Point
    vm_name: str
    vm_uuid: str
    disks: tuple[RestoredDisk, ...] = ()
    rolled_back: tuple[RolledBack, ...] = ()
    definition: str | None = None
    defined: bool = False
    started: bool = False
    not_started: Failure | None = None
    notes: tuple[str, ...] = ()

    def show(self, page: Page) -> None:
        """What is where now."""
        point = self.restore_point
        page.line(f"{point.vm_name}: restored from {point.short_id}, {moment(point.taken_at)}", bold=True)
        for disk in self.disks:
            page.line(f"  {disk.target} -> {disk.path} ({disk.image_format}, {size(disk.size)})")
        for rolled in self.rolled_back:
            kept = f"; what was there is kept as {rolled.kept}" if rolled.kept else ""
            page.line(f"  {rolled.target} -> {rolled.path}{kept}")
        self._show_vm(page)
        for note in self.notes:
            page.line(f"  note: {note}")

    def _show_vm(self, page: Page) -> None:
        if self.definition:
            page.line(f"  definition -> {self.definition}")
        if self.defined:
            page.line(f"  defined as {self.vm_name} ({self.vm_uuid})")
        if self.started:
            page.line("  started")
        if self.not_started:
            page.line(f"  not started: {self.not_started.error}", bold=True)
            if self.not_started.hint:
                page.line(f"  hint: {self.not_started.hint}")

    @property
    def exit_code(self) -> int:
        """3 if it could not be started."""
        return IncompleteError.exit_code if self.not_started else 0


def describe_restore(report: RestoreReport, start: Start) -> Restored:
    """The restore of a whole VM as it is shown."""
    return Restored(
        restore_point=describe_point(report.restore_point),
        vm_name=report.vm_name,
        vm_uuid=report.vm_uuid,
        disks=report.disks,
        definition=report.definition,
        defined=report.defined,
        started=start.done,
        not_started=start.failed,
        notes=report.notes,
    )


def describe_roll_back(report: RollBackReport, vm_uuid: str, start: Start) -> Restored:
    """A roll-back as it is shown."""
    return Restored(
        restore_point=describe_point(report.restore_point),
        vm_name=report.vm_name,
        vm_uuid=vm_uuid,
        rolled_back=report.disks,
        started=start.done,
        not_started=start.failed,
        notes=report.notes,
    )
