# SPDX-License-Identifier: Apache-2.0
"""How much there is: what restore points would take up restored, and what they take up in the repository."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from donjon.errors import IntegrityError
from donjon.repository.format.blob import BlobType, parse_id
from donjon.repository.format.tree import Node
from donjon.repository.reader import stream_tree
from donjon.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class Stats:
    """Sizes in bytes.

    `restore_size` is that of all files of all snapshots, `files` their number, as restic's mode "restore-size".
    Of the blobs that they need, each counted once as in mode "raw-data", `plain_size` is the size as read and
    `stored_size` that in the repository.
    """

    snapshots: int
    files: int
    restore_size: int
    blobs: int
    plain_size: int
    stored_size: int

    @property
    def compression_ratio(self) -> float:
        """How many times smaller compression makes the data."""
        return self.plain_size / self.stored_size if self.stored_size else 1.0

    @property
    def dedup_ratio(self) -> float:
        """How many times smaller it is that nothing is stored twice, and holes once."""
        return self.restore_size / self.plain_size if self.plain_size else 1.0


def compute_stats(repository: Repository, snapshots: Iterable[str] | None = None) -> Stats:
    """Count what snapshots (their ids; None: all) hold.

    Raises:
        IntegrityError: a snapshot or directory is damaged, or a blob is in no index.
    """
    names = [name for name, _ in repository.snapshots()] if snapshots is None else list(snapshots)
    count = _Count(repository)
    files = size = 0
    for name in names:
        below = count.tree(bytes.fromhex(repository.load_snapshot(name).tree))
        files, size = files + below[0], size + below[1]
    stored, plain = repository.index.totals(count.needed)
    return Stats(len(names), files, size, int(np.count_nonzero(count.needed)), plain, stored)


class _Count:
    """Counts each directory once, however many snapshots share it."""

    def __init__(self, repository: Repository) -> None:
        self.needed: NDArray[np.bool_] = np.zeros(len(repository.index), np.bool_)
        self._repository = repository
        self._known: dict[bytes, tuple[int, int]] = {}

    def tree(self, root: bytes) -> tuple[int, int]:
        """Number and size of the files below a tree; marks what they need."""
        nodes: dict[bytes, list[Node]] = {}
        stack = [root]
        while stack:
            tree = stack[-1]
            if tree in self._known:
                stack.pop()
                continue
            if tree not in nodes:
                self._need(BlobType.TREE, tree)
                nodes[tree] = stream_tree(self._repository, tree, lambda _, ids: self._need(BlobType.DATA, ids)).nodes
            children = [parse_id(node.subtree) for node in nodes[tree] if node.subtree]
            if waiting := [child for child in children if child not in self._known]:
                stack += waiting
                continue
            files = [node.size for node in nodes.pop(tree) if node.type == "file"]
            self._known[tree] = (
                len(files) + sum(self._known[child][0] for child in children),
                sum(files) + sum(self._known[child][1] for child in children),
            )
        return self._known[root]

    def _need(self, type: BlobType, ids: bytes) -> None:
        rows = self._repository.index.rows(type, ids)
        if (rows < 0).any():
            raise IntegrityError("cannot count the data: a blob is in no index", hint="run `donjon check`")
        self.needed[rows] = True
