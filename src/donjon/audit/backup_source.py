# SPDX-License-Identifier: Apache-2.0
"""The facts of backup, and of guests, out of repositories and donjon's own records."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime

from donjon.audit.fact import Fact, Known, Unknown
from donjon.audit.facts.backup import Backup, Drilled, Owed
from donjon.audit.facts.guests import Guest
from donjon.audit.guest.inspect import inspect_disks, unknown_guest
from donjon.errors import DonjonError
from donjon.guest_files.guest import Disk
from donjon.model.restore_point import RestorePoint
from donjon.repository.reader import BlobCache, Image
from donjon.repository.repository import Repository
from donjon.restore_points import load_disk, load_manifest, survey_restore_points
from donjon.state.drills import DrillResult, Drills
from donjon.state.ledger import Debt


def read_backup(repositories: Sequence[Repository], drills: Drills, left_owed: Iterable[Debt], now: datetime) -> Backup:
    """What repositories, records of drills and the ledger say.

    Args:
        repositories: all that hold backups of the host's VMs; none: nobody knows of restore points.
        drills: the records.
        left_owed: what processes that are gone owe still.
        now: in UTC.

    Raises:
        StoreError: a repository cannot be read.
    """
    return Backup(
        restore_points=_restore_points(repositories),
        asked=_text(now),
        drills=_drills(drills),
        owed=Known(tuple(Owed(debt.kind, _whom(debt)) for debt in left_owed), "ledger"),
    )


def newest_points(repositories: Iterable[Repository]) -> dict[str, tuple[Repository, RestorePoint]]:
    """VM's UUID -> its newest restore point that can be read, and where it is. Raises StoreError."""
    newest: dict[str, tuple[Repository, RestorePoint]] = {}
    for repository in repositories:
        for point in survey_restore_points(repository).points:
            known = newest.get(point.vm_uuid)
            if known is None or known[1].taken_at < point.taken_at:
                newest[point.vm_uuid] = (repository, point)
    return newest


def inspect_restore_point(repository: Repository, point: RestorePoint, passphrases: Sequence[str] = ()) -> Guest:
    """The facts of a guest as in a restore point; nothing is restored, nothing of it runs.

    What cannot be seen is unknown, damaged blocks too.
    """
    source = f"restore point {point.id[:8]} of {_text(point.taken_at)}"
    try:
        with ExitStack() as held:
            return inspect_disks(_disks(repository, point, held), source, passphrases)
    except DonjonError as error:
        return unknown_guest(str(error), source)


def inspect_guests(repositories: Iterable[Repository], vms: Collection[str]) -> dict[str, Guest]:
    """The facts of these VMs, by UUID, each from its newest restore point; without those that have none."""
    newest = newest_points(repositories)
    return {uuid: inspect_restore_point(*newest[uuid]) for uuid in vms if uuid in newest}


def _disks(repository: Repository, point: RestorePoint, held: ExitStack) -> list[tuple[str, Disk]]:
    cache = BlobCache(repository)
    disks: list[tuple[str, Disk]] = []
    for disk in load_manifest(repository, point).disks:
        block_map = load_disk(repository, point, disk)
        held.callback(block_map.close)
        disks.append((disk.target, held.enter_context(Image(repository, block_map, cache))))
    return disks


def _restore_points(repositories: Sequence[Repository]) -> Fact[dict[str, str]]:
    if not repositories:
        return Unknown("no repository was asked")
    newest = newest_points(repositories)
    where = ", ".join(repository.store.location for repository in repositories)
    return Known({uuid: _text(point.taken_at) for uuid, (_, point) in newest.items()}, where)


def _drills(drills: Drills) -> Fact[dict[str, Drilled]]:
    try:
        results = drills.list()
    except DonjonError as error:
        return Unknown(str(error))
    found: dict[str, Drilled] = {}
    for one in results:
        found[one.vm_uuid] = _with(found.get(one.vm_uuid, Drilled()), one)
    return Known(found, str(drills.directory))


def _with(known: Drilled, result: DrillResult) -> Drilled:
    """`result` is later than all that is known."""
    begun = _text(result.begun_at)
    return Drilled(begun if result.passed else known.passed, begun)


def _whom(debt: Debt) -> str:
    return str(debt.args.get("uuid") or debt.args.get("vm") or debt)


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")
