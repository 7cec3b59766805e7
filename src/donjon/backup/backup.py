# SPDX-License-Identifier: Apache-2.0
"""Backup of one VM: hold it still, store its disks and all that belongs to it, commit, let it go."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple

from donjon import trace
from donjon.backup.files import SideFiles, save_side_files
from donjon.backup.image import ImageStats, choose_block_size, store_image
from donjon.backup.method import Capture, CapturedDisk, Method
from donjon.errors import ConfigError, HostError, IncompleteError, IntegrityError, StoreError
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
    load_disk,
    load_manifest,
    safe_name,
    save_disk,
    save_restore_point,
    survey_restore_points,
)

_LONGEST_NAME = 255
"""Of a file, in bytes; as Linux has it."""

_REPAIR = "run `donjon check`, and `donjon repair index` before the next backup"


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


class _StoredDisk(NamedTuple):
    """A disk that is in the repository; `tree` is the id of its directory."""

    point: DiskPoint
    report: DiskReport
    tree: bytes


class _Before(NamedTuple):
    """The restore point to build upon: what it says, and the maps and trees of its disks by target.

    `is_whole` is False where some of it is lost.
    """

    point: RestorePoint | None
    manifest: Manifest | None
    maps: Mapping[str, BlockMap]
    trees: Mapping[str, bytes]
    is_whole: bool
    notes: tuple[str, ...]


def back_up(vm: Vm, method: Method, repository: Repository, options: WriteOptions, progress: Progress) -> BackupReport:
    """Make a restore point of a VM.

    Raises:
        ConfigError: a name of the VM cannot be kept.
        RefusedError, HostError: the VM cannot be held still, or an image not be read.
        StoreError: the repository cannot be written. Whatever is raised so far: no restore point came into being, the
            VM and its host are as they were, and what was stored already will not have to be stored again.
        IncompleteError: the restore point is there, but something could not be put back, and is still owed.
    """
    _check_names(vm)
    begun_at, begun_s = datetime.now(UTC), time.monotonic()
    committed: list[RestorePoint] = []
    try:
        with (
            writing(repository, options) as writer,
            _load_before(repository, vm) as before,
            method.capture(vm, before.manifest) as capture,
        ):
            taken_at, still_s = datetime.now(UTC), time.monotonic()
            stored = [_store_disk(disk, vm, writer, repository, before, progress) for disk in capture.disks]
            beside = save_side_files(writer, vm.name, vm.side_files)
            writer.flush()
            capture.verify()
            manifest = _manifest(capture, method, taken_at, stored, beside, before.notes)
            committed.append(
                save_restore_point(
                    writer,
                    manifest,
                    definition=vm.definition,
                    disks={disk.point.target: disk.tree for disk in stored},
                    files=beside.directory,
                    begun_at=begun_at,
                    previous=before.point,
                    previous_disks=before.trees,
                )
            )
            trace.reached("backup.committed")
            capture.commit()
    except (HostError, StoreError) as error:
        if not committed:
            raise
        raise IncompleteError(
            f"the restore point {committed[0].id[:8]} of {vm.name} was made, but: {error}", hint=error.hint
        ) from error
    ended_s = time.monotonic()
    return BackupReport(
        restore_point=committed[0],
        disks=tuple(disk.report for disk in stored),
        left_out=capture.left_out,
        notes=manifest.notes,
        stored=writer.written.stored,
        still_s=ended_s - still_s,
        duration_s=ended_s - begun_s,
    )


def _check_names(vm: Vm) -> None:
    """What stands in a restore point is UTF-8, and the name of its directory one that file systems can have."""
    if not vm.name or "\0" in vm.name:
        raise ConfigError("cannot back up a VM without a name")
    names = [vm.name, *(disk.source or "" for disk in vm.disks), *(file.path for file in vm.side_files)]
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"cannot back up {vm.name!r}: {name!r} is not UTF-8", hint="rename it") from error
    if len(safe_name(vm.name).encode()) > _LONGEST_NAME:
        raise ConfigError(f"cannot back up {vm.name[:40]!r}...: its name is longer than {_LONGEST_NAME} bytes")


def _manifest(
    capture: Capture,
    method: Method,
    taken_at: datetime,
    stored: Sequence[_StoredDisk],
    beside: SideFiles,
    notes: tuple[str, ...],
) -> Manifest:
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
        disks=tuple(disk.point for disk in stored),
        side_files=beside.points,
        left_out=capture.left_out,
        labels=vm.labels,
        notes=notes + capture.notes + beside.notes,
    )


@contextmanager
def _load_before(repository: Repository, vm: Vm) -> Iterator[_Before]:
    """The VM's last restore point. A disk whose map is damaged or lost there is as good as new."""
    survey = survey_restore_points(repository)
    last = next((point for point in reversed(survey.points) if point.vm_uuid == vm.uuid), None)
    maps: dict[str, BlockMap] = {}
    trees: dict[str, bytes] = {}
    notes: list[str] = []
    with ExitStack() as held:
        manifest = _load_manifest(repository, last, notes) if last else None
        if last and manifest:
            for disk in manifest.disks:
                try:
                    trees[disk.target] = find_disk_tree(repository, last, disk)
                    maps[disk.target] = held.enter_context(load_disk(repository, last, disk))
                except (IntegrityError, StoreError) as error:
                    notes.append(f"the last restore point of {disk.target} is of no use: {error}; {_REPAIR}")
            manifest = replace(manifest, disks=tuple(disk for disk in manifest.disks if disk.target in maps))
        yield _Before(last, manifest, maps, trees, not notes, (*survey.damaged, *notes))


def _load_manifest(repository: Repository, point: RestorePoint, notes: list[str]) -> Manifest | None:
    try:
        return load_manifest(repository, point)
    except (IntegrityError, StoreError) as error:
        notes.append(f"the last restore point is of no use: {error}; {_REPAIR}")
        return None


def _store_disk(
    captured: CapturedDisk, vm: Vm, writer: Writer, repository: Repository, before: _Before, progress: Progress
) -> _StoredDisk:
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
            is_lost = previous is None and not before.is_whole
            tree = save_disk(writer, target, block_map, _mtime_ns(captured, is_lost=is_lost))
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
    return _StoredDisk(point, _report(target, size, stats, captured.reason), tree)


def _mtime_ns(captured: CapturedDisk, *, is_lost: bool) -> int:
    """The image's; another where the index may name a directory of the disk that is lost: it is stored anew then."""
    if is_lost:
        return time.time_ns()
    return captured.stamps[0].mtime_ns if captured.stamps else 0


def _report(target: str, size: int, stats: ImageStats, reason: str) -> DiskReport:
    return DiskReport(target, size, stats.read, stats.zero, stats.kept, stats.added, stats.stored, reason)
