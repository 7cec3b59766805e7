# SPDX-License-Identifier: Apache-2.0
"""What belongs to a VM beside its disks, into the repository: firmware variables, TPM state, kernel, seed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from donjon import trace
from donjon.errors import HostError
from donjon.model.restore_point import SideFilePoint
from donjon.model.vm import SideFile
from donjon.repository.format.blob import BlobType
from donjon.repository.format.tree import Node, dir_node, encode_tree
from donjon.repository.writer import Writer
from donjon.restore_points import inode_of, safe_name, save_content

_PIECE = 1 << 20
_LATE_ROLES = frozenset({"nvram", "tpm"})
"""What comes into being when the guest first starts, so that nothing is amiss before."""


class SideFiles(NamedTuple):
    """What was kept: the directory's node (None if there is nothing), what is in it, and what the operator should know.

    Each point is in `directory`; a note is a sentence.
    """

    directory: Node | None
    points: tuple[SideFilePoint, ...]
    notes: tuple[str, ...]


def save_side_files(writer: Writer, vm_name: str, files: Iterable[SideFile]) -> SideFiles:
    """Keep the side files that exist, below a directory "files" with one for each role.

    A file that does not exist is left out, and so are symbolic links inside a directory: whoever may write there,
    may not choose what we read.

    Raises:
        HostError: one cannot be read, changes while it is read, or is neither file nor directory.
    """
    by_role: dict[str, list[Node]] = {}
    points: list[SideFilePoint] = []
    notes: list[str] = []
    for file in files:
        path = Path(file.path)
        if _is_missing(path):
            if file.role not in _LATE_ROLES:
                notes.append(f"the {file.role} {path} does not exist, and is left out")
            continue
        name = safe_name(path.name)
        node, links = _save_unchanged(writer, path, name)
        by_role.setdefault(file.role, []).append(node)
        notes += [f"{link} is a symbolic link, and is left out" for link in links]
        points.append(SideFilePoint(file.role, file.path, f"/{safe_name(vm_name)}/files/{file.role}/{name}"))
    roles = [_directory(writer, role, nodes) for role, nodes in by_role.items()]
    return SideFiles(_directory(writer, "files", roles) if roles else None, tuple(points), tuple(notes))


def _is_missing(path: Path) -> bool:
    try:
        os.lstat(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        raise HostError(f"cannot back up {path}: {error.strerror}") from error
    return False


def _save_unchanged(writer: Writer, path: Path, name: str) -> tuple[Node, list[Path]]:
    """Keep a file or directory as it was at one moment; also returns the links in it, which are left out."""
    try:
        real = Path(os.path.realpath(path, strict=True))  # the operator's own link, as /vmlinuz is
        for _ in range(2):
            before = _stamps(real)
            trace.reached("files.examined")
            node = _save(writer, real, name)
            if _stamps(real) == before:
                return node, [found for found, status in before.items() if stat.S_ISLNK(status.mode)]
    except OSError as error:
        raise HostError(f"cannot back up {error.filename or path}: {error.strerror}") from error
    raise HostError(f"cannot back up {path}: it changed while it was read", hint="try again")


class _Stamp(NamedTuple):
    """By which a file is known again, unchanged; times in nanoseconds."""

    mode: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


def _stamps(path: Path) -> dict[Path, _Stamp]:
    """Of a file, or of a directory and all that is in it."""
    status = os.lstat(path)
    found = {path: _Stamp(status.st_mode, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)}
    if stat.S_ISDIR(status.st_mode):
        for child in sorted(path.iterdir()):
            found |= _stamps(child)
    return found


def _save(writer: Writer, path: Path, name: str) -> Node:
    status = os.lstat(path)
    if stat.S_ISDIR(status.st_mode):
        children = [_save(writer, child, child.name) for child in sorted(path.iterdir()) if not child.is_symlink()]
        node = _directory(writer, name, children)
    elif stat.S_ISREG(status.st_mode):
        node = save_content(writer, name, _read(path), status.st_mtime_ns)
    else:
        raise HostError(f"cannot back up {path}: it is neither a file nor a directory")
    mode = (node.mode & ~0o777) | stat.S_IMODE(status.st_mode) & 0o777
    return msgspec.structs.replace(node, mode=mode, uid=status.st_uid, gid=status.st_gid)


def _read(path: Path) -> Iterator[bytes]:
    """A file's content; of none that has become a link or a pipe meanwhile."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def _directory(writer: Writer, name: str, nodes: list[Node]) -> Node:
    tree = writer.save_blob(BlobType.TREE, encode_tree(nodes))
    return dir_node(name, tree, mtime_ns=0, inode=inode_of(name))
