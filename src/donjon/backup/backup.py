# SPDX-License-Identifier: Apache-2.0
"""Backup of one VM: hold it still, store its disks and all that belongs to it, commit, let it go."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple

from donjon import trace
from donjon.backup.files import save_side_files
from donjon.backup.image import ImageStats, choose_block_size, store_image
from donjon.backup.method import Capture, CapturedDisk, Method
from donjon.errors import ConfigError, IntegrityError
from donjon.model.progress import Progress
from donjon.model.restore_point import DiskPoint, LeftOut, Manifest, RestorePoint
from donjon.model.vm import Vm
from donjon.repository.block_map import BlockMap
from donjon.repository.format.blob import BlobType
from donjon.repository.repository import Repository
from donjon.repository.writer import WriteOptions, Writer, writing
from donjon.restore_points import (
    MANIFEST_FORMAT,
    PROGRAM,
    disk_path,
    find_disk_tree,
    list_restore_points,
    load_disk,
    load_manifest,
    save_disk,
    save_restore_point,
)


@dataclass(frozen=True, slots=True)
class DiskReport:
    """What became of a disk; sizes in bytes, as in ImageStats. `reason` says what was known beforehand."""

    target: str
    size: int
    read: int
    zero: int
    kept: int
    added: int
    stored: int
    reason: str


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What a backup did. `still_s` is how long the VM was held still, `stored` what the repository grew by in bytes."""

    restore_point: RestorePoint
    disks: tuple[DiskReport, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    stored: int
    still_s: float
    duration_s: float


class _Before(NamedTuple):
    """The restore point to build upon: what it says, and the maps and trees of its disks by target."""

    manifest: Manifest | None
    maps: Mapping[str, BlockMap]
    trees: Mapping[str, bytes]
    notes: tuple[str, ...]


def back_up(vm: Vm, method: Method, repository: Repository, options: WriteOptions, progress: Progress) -> BackupReport:
    """Make a restore point of a VM.

    Raises:
        RefusedError, HostError: the VM cannot be held still, or an image not be read.
        StoreError: the repository cannot be written. Whatever is raised: no restore point came into being, the VM and
            its host are as they were, and what was stored already will not have to be stored again.
    """
    _check_name(vm)
    begun_at, begun_s = datetime.now(UTC), time.monotonic()
    with (
        writing(repository, options) as writer,
        _load_before(repository, vm) as before,
        method.capture(vm, before.manifest) as capture,
    ):
        still_s = time.monotonic()
        manifest = _manifest(capture, method, datetime.now(UTC), before.notes)
        trees, points, reports = {}, [], []
        for disk in capture.disks:
            point, report, tree = _store_disk(disk, vm, writer, repository, before, progress)
            trees[disk.disk.target] = tree
            points.append(point)
            reports.append(report)
        files, side_points = save_side_files(writer, vm.name, vm.side_files)
        writer.flush()
        capture.verify()
        manifest = replace(manifest, disks=tuple(points), side_files=tuple(side_points))
        restore_point = save_restore_point(
            writer, manifest, definition=vm.definition, disks=trees, files=files, begun_at=begun_at
        )
        trace.reached("backup.committed")
        capture.commit()
    ended_s = time.monotonic()
    return BackupReport(
        restore_point=restore_point,
        disks=tuple(reports),
        left_out=capture.left_out,
        notes=manifest.notes,
        stored=writer.written.stored,
        still_s=ended_s - still_s,
        duration_s=ended_s - begun_s,
    )


def _check_name(vm: Vm) -> None:
    try:
        vm.name.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"cannot back up {vm.name!r}: its name is not UTF-8") from error
    if not vm.name or "\0" in vm.name:
        raise ConfigError("cannot back up a VM without a name")


def _manifest(capture: Capture, method: Method, taken_at: datetime, notes: tuple[str, ...]) -> Manifest:
    vm = capture.vm
    return Manifest(
        format=MANIFEST_FORMAT,
        program=PROGRAM,
        vm_uuid=vm.uuid,
        vm_name=vm.name,
        host=vm.host,
        taken_at=taken_at,
        method=method.name,
        consistency=capture.consistency.name.lower(),
        disks=(),
        left_out=capture.left_out,
        labels=vm.labels,
        notes=notes + capture.notes,
    )


@contextmanager
def _load_before(repository: Repository, vm: Vm) -> Iterator[_Before]:
    """The VM's last restore point. A disk whose map is damaged there is as good as new."""
    points = [point for point in list_restore_points(repository) if point.vm_uuid == vm.uuid]
    if not points:
        yield _Before(None, {}, {}, ())
        return
    with ExitStack() as held:
        maps, trees, notes = {}, {}, []
        try:
            manifest = load_manifest(repository, points[-1])
        except IntegrityError as error:
            yield _Before(None, {}, {}, (f"the last restore point is of no use: {error}",))
            return
        for disk in manifest.disks:
            try:
                trees[disk.target] = find_disk_tree(repository, points[-1], disk)
                maps[disk.target] = held.enter_context(load_disk(repository, points[-1], disk))
            except IntegrityError as error:
                notes.append(f"the last restore point of {disk.target} is of no use: {error}")
        usable = replace(manifest, disks=tuple(disk for disk in manifest.disks if disk.target in maps))
        yield _Before(usable, maps, trees, tuple(notes))


def _store_disk(
    captured: CapturedDisk, vm: Vm, writer: Writer, repository: Repository, before: _Before, progress: Progress
) -> tuple[DiskPoint, DiskReport, bytes]:
    target, size = captured.disk.target, captured.source.size
    previous = before.maps.get(target)
    block_size = previous.block_size if previous else choose_block_size(size)
    progress.begin(target, size)
    block_map, stats = store_image(
        captured.source,
        block_size,
        writer,
        previous=previous,
        has_blob=lambda blob: repository.has_blob(BlobType.DATA, blob),
        progress=progress.advance,
    )
    with block_map:
        if previous is not None and block_map.equals(previous):
            tree = before.trees[target]
        else:
            mtime_ns = captured.stamps[0].mtime_ns if captured.stamps else 0
            tree = save_disk(writer, target, block_map, mtime_ns)
    point = DiskPoint(
        target=target,
        path=disk_path(vm.name, target),
        size=size,
        block_size=block_size,
        source=captured.disk.source,
        image_format=captured.image_format,
        image_options=captured.image_options,
        stamps=captured.stamps,
        checkpoint=captured.checkpoint,
        had_internal_snapshots=captured.had_internal_snapshots,
    )
    return point, _report(target, size, stats, captured.reason), tree


def _report(target: str, size: int, stats: ImageStats, reason: str) -> DiskReport:
    return DiskReport(target, size, stats.read, stats.zero, stats.kept, stats.added, stats.stored, reason)
