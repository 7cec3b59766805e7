# SPDX-License-Identifier: Apache-2.0
"""Restore points: listed, shown, compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from donjon.cli.options import COMMON, Common, Given, NoLock
from donjon.cli.page import Page
from donjon.cli.result import Point, Result, describe_point
from donjon.cli.session import Session
from donjon.cli.text import moment, size
from donjon.errors import ConfigError
from donjon.model.restore_point import LeftOut, Manifest, RestorePoint
from donjon.model.restore_point_spec import find_restore_point, split_spec
from donjon.repository.objects import LISTABLE, list_objects
from donjon.restore.diff import DiskDiff, diff_points
from donjon.restore_points import load_definition, load_manifest

Kind = Literal["packs", "index", "snapshots", "keys", "locks", "blobs"]

Spec = Annotated[
    str,
    Parameter(
        metavar="VM[@WHEN]",
        help="VM or VM@WHEN: name or UUID, and latest, the first digits of an id, or a time like 2026-11-23T08:00.",
    ),
]


@dataclass(frozen=True, slots=True)
class PointList(Result):
    """Restore points, oldest first."""

    restore_points: tuple[Point, ...]

    def show(self, page: Page) -> None:
        """A table."""
        rows = [
            (p.short_id, moment(p.taken_at), p.vm_name, p.host, p.method, p.consistency, size(p.size))
            for p in self.restore_points
        ]
        if rows:
            page.table(("id", "taken", "VM", "host", "method", "consistency", "size"), rows, right={"size"})
        else:
            page.line("no restore points yet; `donjon backup` makes one")


@dataclass(frozen=True, slots=True)
class ObjectList(Result):
    """Ids of the repository's objects of a kind; those of blobs with their type in front."""

    kind: str
    ids: tuple[str, ...]

    def show(self, page: Page) -> None:
        """One a line."""
        for name in self.ids:
            page.line(name)


@dataclass(frozen=True, slots=True)
class DiskEntry:
    """A disk in a restore point; size in bytes, `path` is where stock restic finds it."""

    target: str
    size: int
    image_format: str
    source: str | None
    path: str


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file beside the disks."""

    role: str
    source: str
    path: str


@dataclass(frozen=True, slots=True)
class PointDetails(Result):
    """A restore point in full; `definition` only if it was asked for.

    `witness`: what the guest found in some of its files then, SHA-256 by path.
    """

    restore_point: Point
    program: str
    disks: tuple[DiskEntry, ...]
    side_files: tuple[FileEntry, ...]
    left_out: tuple[LeftOut, ...]
    labels: dict[str, str]
    notes: tuple[str, ...]
    witness: dict[str, str]
    definition: str | None

    def show(self, page: Page) -> None:
        """What it is, what it holds, what it does not."""
        if self.definition is not None:
            page.text(self.definition)
            return
        point = self.restore_point
        page.facts(
            [
                ("VM", point.vm_name),
                ("UUID", point.vm_uuid),
                ("host", point.host),
                ("taken", moment(point.taken_at)),
                ("id", point.id),
                ("method", point.method),
                ("consistency", point.consistency),
                ("made by", self.program),
                *(("label", f"{key}={value}") for key, value in self.labels.items()),
            ]
        )
        page.line()
        rows = [(disk.target, size(disk.size), disk.image_format, disk.source or "-", disk.path) for disk in self.disks]
        page.table(("disk", "size", "format", "was at", "for restic at"), rows, right={"size"})
        for file in self.side_files:
            page.line(f"{file.role}: {file.source}, for restic at {file.path}")
        for left_out in self.left_out:
            page.line(f"left out: {left_out.target}: {left_out.reason}")
        for path, found in self.witness.items():
            page.line(f"witness: {path}, SHA-256 {found}")
        for note in self.notes:
            page.line(f"note: {note}")


@dataclass(frozen=True, slots=True)
class Differences(Result):
    """What changed from one restore point to another; `definition` as a unified diff."""

    before: Point
    after: Point
    disks: tuple[DiskDiff, ...]
    definition: tuple[str, ...]

    def show(self, page: Page) -> None:
        """A table of disks, then the definition's changes."""
        page.line(f"{self.before.vm_name}: {_when(self.before)} -> {_when(self.after)}")
        rows = [(disk.target, disk.change, _sizes(disk), _changed(disk)) for disk in self.disks]
        page.table(("disk", "is", "size", "changed"), rows, right={"changed"})
        if self.definition:
            page.line()
            page.text("\n".join(self.definition))
        else:
            page.line("the definition is the same")


def list_points(
    *vms: Annotated[str, Parameter(metavar="VM", help="Only theirs; names or UUIDs.")],
    objects: Annotated[
        Kind | None, Parameter(metavar="KIND", help="List these instead: " + ", ".join(LISTABLE) + ".")
    ] = None,
    common: Common = COMMON,
    program: Given,
) -> PointList | ObjectList:
    """List restore points, or the repository's objects.

    Examples:
        donjon list

        donjon list web01 mail

        donjon list --objects packs
    """
    session = Session(common, program)
    repository = session.open_repository()
    if objects:
        return ObjectList(objects, tuple(list_objects(repository, objects)))
    points = session.restore_points(repository)
    if vms:
        wanted = set(vms)
        for vm in wanted - {name for point in points for name in (point.vm_name, point.vm_uuid)}:
            find_restore_point(points, vm)  # says that there is none, and what there is
        points = [point for point in points if wanted & {point.vm_name, point.vm_uuid}]
    return PointList(tuple(map(describe_point, points)))


def show(
    point: Spec,
    /,
    *,
    definition: Annotated[bool, Parameter(help="Print the VM's definition only.")] = False,
    no_lock: NoLock = False,
    common: Common = COMMON,
    program: Given,
) -> PointDetails:
    """Show what a restore point holds.

    Examples:
        donjon show web01

        donjon show web01@2026-11-23 --definition > web01.xml
    """
    session = Session(common, program)
    with session.reading(no_lock=no_lock) as repository:
        found = find_point(session.restore_points(repository), point)
        manifest = load_manifest(repository, found)
        xml = load_definition(repository, found) if definition else None
    if definition and xml is None:
        raise ConfigError(f"cannot show the definition of {found.vm_name}: the restore point has none")
    return _details(found, manifest, xml)


def diff(
    before: Spec,
    after: Spec,
    /,
    *,
    no_lock: NoLock = False,
    common: Common = COMMON,
    program: Given,
) -> Differences:
    """Show what changed between two restore points.

    Disks are compared by the list of their blocks: that takes no time and reads no data.

    Examples:
        donjon diff web01@2026-11-22 web01
    """
    session = Session(common, program)
    with session.reading(no_lock=no_lock) as repository:
        points = session.restore_points(repository)
        found = diff_points(repository, find_point(points, before), find_point(points, after))
    return Differences(describe_point(found.before), describe_point(found.after), found.disks, found.definition)


def find_point(points: list[RestorePoint], spec: str) -> RestorePoint:
    """The restore point that VM[@WHEN] names. Raises ConfigError."""
    name, when = split_spec(spec, points)
    return find_restore_point(points, name, when)


def _details(point: RestorePoint, manifest: Manifest, definition: str | None) -> PointDetails:
    return PointDetails(
        restore_point=describe_point(point),
        program=manifest.program,
        disks=tuple(DiskEntry(d.target, d.size, d.image_format, d.source, d.path) for d in manifest.disks),
        side_files=tuple(FileEntry(file.role, file.source, file.path) for file in manifest.side_files),
        left_out=manifest.left_out,
        labels=manifest.labels,
        notes=manifest.notes,
        witness=manifest.witness,
        definition=definition,
    )


def _when(point: Point) -> str:
    return f"{moment(point.taken_at)} ({point.short_id})"


def _sizes(disk: DiskDiff) -> str:
    sizes = [size(length) for length in (disk.size_before, disk.size_after) if length is not None]
    return sizes[0] if disk.size_before == disk.size_after else " -> ".join(sizes)


def _changed(disk: DiskDiff) -> str:
    return "unknown" if disk.changed is None else size(disk.changed)
