# SPDX-License-Identifier: Apache-2.0
"""What belongs to a VM beside its disks, into the repository: firmware variables, TPM state, kernel, seed."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from donjon.errors import HostError
from donjon.model.restore_point import SideFilePoint
from donjon.model.vm import SideFile
from donjon.repository.format.blob import BlobType
from donjon.repository.format.tree import Node, dir_node, encode_tree
from donjon.repository.writer import Writer
from donjon.restore_points import inode_of, safe_name, save_content

_PIECE = 1 << 20


def save_side_files(writer: Writer, vm_name: str, files: Iterable[SideFile]) -> tuple[Node | None, list[SideFilePoint]]:
    """Keep the side files that exist, below a directory "files" with one for each role.

    Returns the directory's node (None if there is nothing to keep) and what is in it. A file that does not exist is
    left out: firmware variables and TPM state come into being when the guest first starts.

    Raises:
        HostError: one cannot be read, or is neither file nor directory.
    """
    by_role: dict[str, list[Node]] = {}
    points = []
    for file in files:
        path = Path(file.path)
        if not _exists(path):
            continue
        name = safe_name(path.name)
        by_role.setdefault(file.role, []).append(_save(writer, path, name))
        points.append(SideFilePoint(file.role, file.path, f"/{safe_name(vm_name)}/files/{file.role}/{name}"))
    if not points:
        return None, points
    roles = [_directory(writer, role, nodes) for role, nodes in by_role.items()]
    return _directory(writer, "files", roles), points


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise HostError(f"cannot back up {path}: {error.strerror}") from error


def _save(writer: Writer, path: Path, name: str) -> Node:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            children = [_save(writer, child, child.name) for child in sorted(path.iterdir())]
            node = _directory(writer, name, children)
        elif stat.S_ISREG(status.st_mode):
            node = save_content(writer, name, _read(path), status.st_mtime_ns)
        else:
            raise HostError(f"cannot back up {path}: it is neither a file nor a directory")
    except OSError as error:
        raise HostError(f"cannot back up {path}: {error.strerror}") from error
    mode = (node.mode & ~0o777) | stat.S_IMODE(status.st_mode) & 0o777
    return msgspec.structs.replace(node, mode=mode, uid=status.st_uid, gid=status.st_gid)


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def _directory(writer: Writer, name: str, nodes: list[Node]) -> Node:
    tree = writer.save_blob(BlobType.TREE, encode_tree(nodes))
    return dir_node(name, tree, mtime_ns=0, inode=inode_of(name))
