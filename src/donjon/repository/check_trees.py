# SPDX-License-Identifier: Apache-2.0
"""The part of a check that follows restore points: every directory, and every blob that it names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from donjon.errors import DonjonError, IntegrityError
from donjon.repository.blob_index import Location
from donjon.repository.check_report import Findings
from donjon.repository.format.blob import ID_LENGTH, BlobType, parse_id
from donjon.repository.format.go_json import unquote_name
from donjon.repository.format.tree import Node, Tree
from donjon.repository.reader import load_tree, stream_tree
from donjon.repository.repository import Repository, plaintext_length
from donjon.repository.store import FileName, FileType

NODE_TYPES = frozenset({"file", "dir", "symlink", "dev", "chardev", "fifo", "socket"})
_NULL_ID = bytes(ID_LENGTH)
_IDS_AT_ONCE = 1 << 16
_LARGE_TREE = 8 << 20
BACK_UP_AGAIN = (
    "run `donjon repair index`, which finds blobs that are there but in no index, then back up again: "
    "what the source still has is stored anew"
)
READ_ALL_PACKS = (
    "run `donjon repair index --read-all-packs`, which saves what can be saved of damaged packs, then back up again: "
    "what the source still has is stored anew"
)


class Fault(NamedTuple):
    """Damage below a directory: the path from there ("" for itself), and what is damaged."""

    path: str
    what: str


@dataclass(slots=True)
class Suspects:
    """Where blobs cannot be relied on: whole packs, and single blobs by pack and offset."""

    packs: set[bytes] = field(default_factory=set)
    blobs: set[tuple[bytes, int]] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.packs or self.blobs)

    def has(self, location: Location) -> bool:
        """Whether this copy of a blob is one of them."""
        return location.pack in self.packs or (location.pack, location.offset) in self.blobs


@dataclass(slots=True)
class _Content:
    """What is wrong with a file's list of blobs."""

    listed: int = 0
    missing: int = 0
    null: int = 0
    packs: set[bytes] = field(default_factory=set)

    def problems(self) -> list[str]:
        """What to say of it, but for packs known as damaged."""
        counts = {"without an id": self.null, "in no index": self.missing - self.null}
        return [f"blobs {trouble}: {count} of {self.listed}" for trouble, count in counts.items() if count]


class TreeCheck:
    """Examines each directory once, however many snapshots share it."""

    def __init__(self, repository: Repository, findings: Findings, suspects: Suspects) -> None:
        self._repository = repository
        self._findings = findings
        self._suspects = suspects
        self._faults: dict[bytes, tuple[Fault, ...]] = {}

    @property
    def trees(self) -> int:
        """Number of directories examined."""
        return len(self._faults)

    def examine(self, root: bytes) -> tuple[Fault, ...]:
        """All damage to what is below a tree."""
        opened: dict[bytes, tuple[list[Fault], list[tuple[str, bytes]]]] = {}
        stack = [root]
        while stack:
            tree = stack[-1]
            if tree in self._faults:
                stack.pop()
                continue
            if tree not in opened:
                opened[tree] = self._open(tree)
            own, children = opened[tree]
            if waiting := [child for _, child in children if child not in self._faults]:
                stack += waiting
                continue
            below = [Fault(f"/{name}{f.path}", f.what) for name, child in children for f in self._faults[child]]
            self._faults[tree] = (*own, *below)
            del opened[tree]
        return self._faults[root]

    def _open(self, blob: bytes) -> tuple[list[Fault], list[tuple[str, bytes]]]:
        """The faults of one directory, and its subdirectories."""
        contents: dict[int, _Content] = {}
        try:
            tree = self._load(blob, lambda number, ids: self._check_ids(contents.setdefault(number, _Content()), ids))
        except DonjonError as error:
            return [self._lost(blob, error)], []
        faults = []
        children = []
        for node, content in _with_contents(tree, contents):
            path, problems = _examine_node(node)
            for problem in problems + content.problems():
                self._findings.error(f"tree {blob.hex()}", f"{path[1:]}: {problem}", BACK_UP_AGAIN)
                faults.append(Fault(path, f"tree {blob.hex()}"))
            faults += [Fault(path, str(FileName(FileType.PACK, pack.hex()))) for pack in sorted(content.packs)]
            if not problems and node.type == "dir" and node.subtree:
                children.append((path[1:], parse_id(node.subtree)))
        return faults, children

    def _lost(self, blob: bytes, error: DonjonError) -> Fault:
        """A directory that cannot be read, put down to the pack that has it; said once of a pack known as damaged."""
        locations = self._repository.locations(BlobType.TREE, blob)
        what = str(FileName(FileType.PACK, locations[0].pack.hex())) if locations else f"tree {blob.hex()}"
        if not (locations and self._suspects.has(locations[0])):
            self._findings.error(what, str(error), READ_ALL_PACKS if locations else BACK_UP_AGAIN)
        return Fault("", what)

    def _load(self, blob: bytes, keep: Callable[[int, bytes], None]) -> Tree:
        """The directory, its lists of content given to `keep`; those of ordinary size may be spaced in any way."""
        locations = self._repository.locations(BlobType.TREE, blob)
        if locations and plaintext_length(locations[0]) >= _LARGE_TREE:
            return stream_tree(self._repository, blob, keep)
        tree = load_tree(self._repository, blob)
        for number, node in enumerate(n for n in tree.nodes if n.content is not None):
            keep(number, _packed_ids(node))
        return tree

    def _check_ids(self, content: _Content, ids: bytes) -> None:
        for at in range(0, len(ids), _IDS_AT_ONCE * ID_LENGTH):
            part = ids[at : at + _IDS_AT_ONCE * ID_LENGTH]
            rows = self._repository.index.rows(BlobType.DATA, part)
            content.listed += len(rows)
            content.missing += int(np.count_nonzero(rows < 0))
            if _NULL_ID in part:
                content.null += sum(blob == _NULL_ID for blob in _ids(part))
            if self._suspects:
                for blob in set(_ids(part)):
                    content.packs |= self._unreliable(blob)

    def _unreliable(self, blob: bytes) -> set[bytes]:
        """The packs that a data blob is in, if none of its copies can be relied on."""
        locations = self._repository.locations(BlobType.DATA, blob)
        return {at.pack for at in locations} if all(map(self._suspects.has, locations)) else set()


def _with_contents(tree: Tree, contents: dict[int, _Content]) -> Iterator[tuple[Node, _Content]]:
    """Nodes with what was found of their contents: those that have any are numbered from 0."""
    number = 0
    for node in tree.nodes:
        if node.content is None:
            yield node, _Content()
        else:
            yield node, contents.get(number, _Content())
            number += 1


def _examine_node(node: Node) -> tuple[str, list[str]]:
    """The path of a node from its directory, and what is wrong with it."""
    problems = []
    try:
        name = unquote_name(node.name)
    except IntegrityError as error:
        return f"/{node.name}", [str(error)]
    if not name or "/" in name:
        problems.append("its name is none that a file can have")
    if node.type not in NODE_TYPES:
        problems.append(f"its type {node.type!r} is unknown")
    if node.type == "file" and node.content is None:
        problems.append("it is a file without a list of content")
    if node.type == "dir" and not _is_id(node.subtree):
        problems.append("it is a directory without content")
    return f"/{name}", problems


def _is_id(text: str | None) -> bool:
    try:
        return parse_id(text or "") != _NULL_ID
    except IntegrityError:
        return False


def _packed_ids(node: Node) -> bytes:
    try:
        ids = bytes.fromhex("".join(node.content or ()))
    except ValueError:
        ids = b""
    if len(ids) != ID_LENGTH * len(node.content or ()):
        raise IntegrityError(f"cannot read a tree: the list of content of {node.name} holds what is no id")
    return ids


def _ids(packed: bytes) -> Iterator[bytes]:
    return (packed[at : at + ID_LENGTH] for at in range(0, len(packed), ID_LENGTH))
