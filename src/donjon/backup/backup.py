# SPDX-License-Identifier: Apache-2.0
"""Backup of one VM, or of several at one moment: hold still, store disks and what belongs to them, commit, let go."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from donjon import trace
from donjon.backup.disk import DiskReport, DiskStorer, StoredDisk
from donjon.backup.earlier import Earlier, load_earlier
from donjon.backup.files import SideFiles, save_side_files
from donjon.backup.method import Capture, GroupMethod, Method
from donjon.backup.reread import Expected, reread
from donjon.backup.sample import USUAL_SAMPLING, Sampling
from donjon.errors import (
    ConfigError,
    DonjonError,
    HostError,
    IncompleteError,
    IntegrityError,
    RepositoryLockedError,
    StoreError,
)
from donjon.model.progress import Progress
from donjon.model.restore_point import LeftOut, Manifest, RestorePoint
from donjon.model.vm import Vm
from donjon.repository.repository import Repository
from donjon.repository.store import FileType
from donjon.repository.writer import WriteOptions, Writer, writing
from donjon.restore_points import MANIFEST_FORMAT, PROGRAM, safe_name, save_restore_point

__all__ = ["BackupReport", "DiskReport", "GroupIncompleteError", "back_up", "back_up_together"]

_LONGEST_NAME = 255
"""Of a file, in bytes; as Linux has it."""


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What a backup did. `still_s` is how long the VM was held still, `stored` what the repository grew by in bytes.

    `frozen_s` and `group` are as in Manifest.
    """

    restore_point: RestorePoint
    disks: tuple[DiskReport, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    stored: int
    still_s: float
    duration_s: float
    frozen_s: float | None = None
    group: str | None = None


class GroupIncompleteError(IncompleteError):
    """Of several VMs some have a restore point (`reports`), while something failed for others, or afterwards.

    `failures` by the VM's name; what failed after all were stored is not in it.
    """

    def __init__(
        self, message: str, reports: Sequence[BackupReport], failures: Mapping[str, DonjonError], hint: str | None
    ) -> None:
        super().__init__(message, hint=hint)
        self.reports = tuple(reports)
        self.failures = dict(failures)


@dataclass(frozen=True, slots=True)
class _Job:
    """What is the same for all VMs that are backed up together."""

    repository: Repository
    method: str
    sampling: Sampling
    progress: Progress
    begun_at: datetime
    begun_s: float
    group: str | None = None


def back_up(
    vm: Vm,
    method: Method,
    repository: Repository,
    options: WriteOptions,
    progress: Progress,
    sampling: Sampling = USUAL_SAMPLING,
) -> BackupReport:
    """Make a restore point of a VM.

    Raises:
        ConfigError: a name of the VM cannot be kept.
        RefusedError, HostError: the VM cannot be held still, or an image not be read.
        StoreError: the repository cannot be written. Whatever is raised so far: no restore point came into being, the
            VM and its host are as they were, and what was stored already will not have to be stored again.
        IntegrityError, StoreError: the restore point that was made could not be read back (the message says so): it is
            not to be relied upon, and the next backup does not build upon it.
        IncompleteError: the restore point is there, but something could not be put back, and is still owed.
    """
    _check_names(vm)
    job = _Job(repository, method.name, sampling, progress, datetime.now(UTC), time.monotonic())
    reports: list[BackupReport] = []
    try:
        with (
            writing(repository, options) as writer,
            load_earlier(repository, vm) as earlier,
            method.capture(vm, earlier.manifest) as capture,
        ):
            taken_at, still_s = datetime.now(UTC), time.monotonic()
            reports.append(_make_point(capture, writer, earlier, job, taken_at))
            capture.commit()
    except (HostError, StoreError) as error:
        if not reports:
            raise
        raise IncompleteError(
            f"the restore point {reports[0].restore_point.id[:8]} of {vm.name} was made, but: {error}", hint=error.hint
        ) from error
    ended_s = time.monotonic()
    return replace(reports[0], still_s=ended_s - still_s, duration_s=ended_s - job.begun_s)


def back_up_together(
    vms: Sequence[Vm],
    method: GroupMethod,
    repository: Repository,
    options: WriteOptions,
    progress: Progress,
    sampling: Sampling = USUAL_SAMPLING,
) -> list[BackupReport]:
    """Make a restore point of each of several VMs, all of one moment; they have the same `group`.

    If one cannot be captured, none is. If one cannot be stored, the others are.

    Raises:
        ConfigError, RefusedError, HostError, StoreError: as `back_up`; no restore point came into being.
        GroupIncompleteError: some did, or something could not be put back afterwards.
    """
    for vm in vms:
        _check_names(vm)
    group = secrets.token_hex(8)
    job = _Job(repository, method.name, sampling, progress, datetime.now(UTC), time.monotonic(), group)
    reports: list[BackupReport] = []
    failures: dict[str, DonjonError] = {}
    try:
        # This writer adds nothing: nobody prunes before all is stored, and an unfit repository shows before a freeze.
        with writing(repository, options), ExitStack() as held:
            earlier = [held.enter_context(load_earlier(repository, vm)) for vm in vms]
            since = [(vm, before.manifest) for vm, before in zip(vms, earlier, strict=True)]
            captures = held.enter_context(method.capture_together(since))
            taken_at = datetime.now(UTC)
            failures = _store_each(list(zip(captures, earlier, strict=True)), options, job, taken_at, reports)
    except (HostError, StoreError) as error:
        if not reports:
            raise
        raise _incomplete(reports, failures, str(error), error.hint) from error
    if failures:
        first = next(iter(failures.values()))
        if not reports:
            raise first
        raise _incomplete(reports, failures, None, first.hint) from first
    return reports


def _store_each(
    captured: Sequence[tuple[Capture, Earlier]],
    options: WriteOptions,
    job: _Job,
    taken_at: datetime,
    reports: list[BackupReport],
) -> dict[str, DonjonError]:
    """Store and commit VM after VM, whatever becomes of others; adds to `reports`, returns what failed by VM."""
    failures: dict[str, DonjonError] = {}
    for capture, earlier in captured:
        try:
            with writing(job.repository, options) as writer:
                reports.append(_make_point(capture, writer, earlier, job, taken_at))
            capture.commit()
        except (HostError, StoreError, IntegrityError, RepositoryLockedError) as error:
            failures[capture.vm.name] = error
    return failures


def _incomplete(
    reports: Sequence[BackupReport], failures: Mapping[str, DonjonError], afterwards: str | None, hint: str | None
) -> GroupIncompleteError:
    made = ", ".join(f"{it.restore_point.id[:8]} of {it.restore_point.vm_name}" for it in reports)
    failed = [f"{name}: {error}" for name, error in failures.items()] + ([afterwards] if afterwards else [])
    return GroupIncompleteError(
        f"the restore points {made} were made, but: {'; '.join(failed)}", reports, failures, hint
    )


def _make_point(capture: Capture, writer: Writer, earlier: Earlier, job: _Job, taken_at: datetime) -> BackupReport:
    """Store a captured VM, and read back what leads to it: from then on the next backup may build upon it."""
    vm, repository = capture.vm, job.repository
    still_s = time.monotonic()
    old_indexes = {info.name for info in repository.store.list(FileType.INDEX)}
    storer = DiskStorer(vm.name, writer, repository, earlier, job.sampling, taken_at, job.progress)
    with ExitStack() as held:
        beside = save_side_files(writer, vm.name, vm.side_files)  # first: they change while the guest runs
        stored = _store_disks(capture, storer, job, held)
        writer.flush()
        capture.verify()
        manifest = _manifest(capture, job, taken_at, stored, beside, earlier.notes)
        trees = {disk.point.target: disk.tree for disk in stored}
        point = save_restore_point(
            writer,
            manifest,
            definition=vm.definition,
            disks=trees,
            files=beside.directory,
            begun_at=job.begun_at,
            previous=earlier.point,
            previous_disks=earlier.trees,
            live_definition=capture.live_definition,
        )
        trace.reached("backup.committed")
        # Maps that are as before were read from the store when this backup began.
        new = {it.point.target: it.block_map for it in stored if it.tree != earlier.trees.get(it.point.target)}
        definitions = (vm.definition, capture.live_definition)
        reread(repository, Expected(point, manifest, *definitions, trees, new, writer.packs, old_indexes))
        trace.reached("backup.reread")
    ended_s = time.monotonic()
    return BackupReport(
        restore_point=point,
        disks=tuple(disk.report for disk in stored),
        left_out=capture.left_out,
        notes=manifest.notes,
        stored=writer.written.stored,
        still_s=ended_s - still_s,
        duration_s=ended_s - job.begun_s,
        frozen_s=capture.frozen_s,
        group=job.group,
    )


def _store_disks(capture: Capture, storer: DiskStorer, job: _Job, held: ExitStack) -> list[StoredDisk]:
    """All disks; if what was known of one turns out to be wrong, nothing is believed of the others, either."""
    names = {disk.disk.target: disk.disk.target for disk in capture.disks}
    if job.group is not None:
        names = {target: f"{capture.vm.name} {target}" for target in names}
    stored = []
    try:
        for disk in capture.disks:
            stored.append(storer.store(disk, names[disk.disk.target]))
            held.enter_context(stored[-1].block_map)
        if any(disk.point.mismatch for disk in stored):
            for number, disk in enumerate(capture.disks):
                if stored[number].report.kept:
                    stored[number] = storer.store(disk, names[disk.disk.target], doubted=True)
                    held.enter_context(stored[number].block_map)
    except HostError as error:
        explained = capture.explain(error)
        if explained is error:
            raise
        raise explained from error
    return stored


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
    job: _Job,
    taken_at: datetime,
    stored: Sequence[StoredDisk],
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
        method=job.method,
        consistency=capture.consistency.name.lower(),
        disks=tuple(disk.point for disk in stored),
        side_files=beside.points,
        left_out=capture.left_out,
        labels=vm.labels,
        notes=(*notes, *(note for disk in stored for note in disk.notes), *capture.notes, *beside.notes),
        frozen_s=capture.frozen_s,
        group=job.group,
        witness=capture.witness,
    )
