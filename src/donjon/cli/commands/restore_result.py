# SPDX-License-Identifier: Apache-2.0
"""What a restore did, for people and programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from donjon.cli.page import Page
from donjon.cli.result import Deed, Failure, Point, describe_point
from donjon.cli.text import moment, size
from donjon.errors import IncompleteError
from donjon.restore.in_place import RollBackReport, RolledBack
from donjon.restore.instant_state import InstantState
from donjon.restore.whole_vm import RestoredDisk, RestoreReport

InstantDeed = Literal["begun", "resumed", "finished", "discarded"]

_INSTANT_DEEDS: dict[InstantDeed, str] = {
    "begun": "runs from the repository, on",
    "resumed": "goes on from the repository, on",
    "finished": "does not need the repository any more; begun from",
    "discarded": "discarded; it ran from",
}


@dataclass(frozen=True, slots=True)
class Start:
    """Whether the VM was started, or why it could not be."""

    done: bool = False
    failed: Failure | None = None


@dataclass(frozen=True, slots=True)
class Restored(Deed):
    """What was restored, where it is, and what became of the VM; sizes in bytes.

    `disks` are new files and devices, `rolled_back` disks that were put back in place. `definition` is the path of the
    VM's definition. `not_started` says why a VM that was to be started is restored, but not on. `instant` is "begun",
    "resumed", "finished" or "discarded" for a VM that runs, or ran, from the repository.
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
    instant: InstantDeed | None = None

    def show(self, page: Page) -> None:
        """What is where now."""
        point = self.restore_point
        deed = _INSTANT_DEEDS[self.instant] if self.instant else "restored from"
        name = self.vm_name if self.instant else point.vm_name
        page.line(f"{name}: {deed} {point.short_id}, {moment(point.taken_at)}", bold=True)
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


def describe_instant(state: InstantState, deed: InstantDeed, notes: tuple[str, ...] = ()) -> Restored:
    """What was done to a VM that runs from the repository, as it is shown."""
    disks = tuple(RestoredDisk(disk.target, disk.overlay, "qcow2", disk.size) for disk in state.disks)
    exists = deed != "discarded"
    return Restored(
        restore_point=describe_point(state.point),
        vm_name=state.vm_name,
        vm_uuid=state.vm_uuid,
        disks=disks if exists else (),
        definition=state.definition if exists else None,
        defined=deed == "begun",
        started=deed == "begun",
        notes=notes,
        instant=deed,
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
