# SPDX-License-Identifier: Apache-2.0
"""The restore point to build upon: what of it can still be relied upon."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import NamedTuple

from donjon.errors import IntegrityError, StoreError
from donjon.model.restore_point import Manifest, RestorePoint
from donjon.model.vm import Vm
from donjon.repository.block_map import BlockMap
from donjon.repository.repository import Repository
from donjon.restore_points import find_disk_tree, load_disk, load_manifest, survey_restore_points

_REPAIR = "run `donjon check`, and `donjon repair index` before the next backup"


class Earlier(NamedTuple):
    """What the VM's last restore point says, and the maps and trees of its disks by target.

    `is_whole` is False where some of it is lost; `notes` say what. `manifest` names only disks that have a map.
    """

    point: RestorePoint | None
    manifest: Manifest | None
    maps: Mapping[str, BlockMap]
    trees: Mapping[str, bytes]
    is_whole: bool
    notes: tuple[str, ...]


@contextmanager
def load_earlier(repository: Repository, vm: Vm) -> Iterator[Earlier]:
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
        yield Earlier(last, manifest, maps, trees, not notes, (*survey.damaged, *notes))


def _load_manifest(repository: Repository, point: RestorePoint, notes: list[str]) -> Manifest | None:
    try:
        return load_manifest(repository, point)
    except (IntegrityError, StoreError) as error:
        notes.append(f"the last restore point is of no use: {error}; {_REPAIR}")
        return None
