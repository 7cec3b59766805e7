# SPDX-License-Identifier: Apache-2.0
"""What changed from one restore point to another: bytes of disks, told by their maps, and lines of the definition."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from donjon.model.restore_point import RestorePoint
from donjon.repository.block_map import BlockMap
from donjon.repository.format.blob import ID_LENGTH
from donjon.repository.repository import Repository
from donjon.restore_points import load_definition, load_disk, load_manifest

_AT_ONCE = 1 << 15

Change = Literal["same", "changed", "added", "removed"]


@dataclass(frozen=True, slots=True)
class DiskDiff:
    """A disk before and after, sizes in bytes (None: not there).

    `changed` counts whole blocks in which anything differs; None if the disks were cut into blocks of different size.
    """

    target: str
    change: Change
    size_before: int | None
    size_after: int | None
    changed: int | None


@dataclass(frozen=True, slots=True)
class PointDiff:
    """All that changed; `definition` as a unified diff, empty if it is the same."""

    before: RestorePoint
    after: RestorePoint
    disks: tuple[DiskDiff, ...]
    definition: tuple[str, ...]


def diff_points(repository: Repository, before: RestorePoint, after: RestorePoint) -> PointDiff:
    """Compare two restore points.

    Raises:
        IntegrityError: what is to be compared is damaged.
    """
    disks_before = {disk.target: disk for disk in load_manifest(repository, before).disks}
    disks_after = {disk.target: disk for disk in load_manifest(repository, after).disks}
    disks = []
    for target in dict.fromkeys([*disks_before, *disks_after]):
        old, new = disks_before.get(target), disks_after.get(target)
        if old and new:
            with load_disk(repository, before, old) as old_map, load_disk(repository, after, new) as new_map:
                disks.append(_diff_disk(target, old_map, new_map))
        elif old:
            disks.append(DiskDiff(target, "removed", old.size, None, old.size))
        elif new:
            disks.append(DiskDiff(target, "added", None, new.size, new.size))
    definition = diff_definitions(load_definition(repository, before), load_definition(repository, after))
    return PointDiff(before, after, tuple(disks), definition)


def changed_bytes(before: BlockMap, after: BlockMap) -> int | None:
    """Bytes of the blocks that differ, or are only in the longer map; None if blocks are of different size."""
    if before.block_size != after.block_size:
        return None
    blocks = min(before.blocks, after.blocks)
    changed = abs(after.size - before.size)
    for start in range(0, blocks, _AT_ONCE):
        stop = min(start + _AT_ONCE, blocks)
        old, new = (np.frombuffer(m.ids(start, stop), np.uint8).reshape(-1, ID_LENGTH) for m in (before, after))
        for block in (start + np.flatnonzero((old != new).any(axis=1))).tolist():
            changed += min(before.length_of(block), after.length_of(block))
    return changed


def diff_definitions(before: str | None, after: str | None) -> tuple[str, ...]:
    """The lines of a unified diff."""
    lines = difflib.unified_diff(
        (before or "").splitlines(), (after or "").splitlines(), "before", "after", lineterm="", n=1
    )
    return tuple(lines)


def _diff_disk(target: str, before: BlockMap, after: BlockMap) -> DiskDiff:
    changed = changed_bytes(before, after)
    return DiskDiff(target, "same" if changed == 0 else "changed", before.size, after.size, changed)
