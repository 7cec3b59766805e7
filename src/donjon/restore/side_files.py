# SPDX-License-Identifier: Apache-2.0
"""What belongs to a VM beside its disks, out of the repository."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from donjon.errors import HostError, IntegrityError, RefusedError
from donjon.images.new_file import Announce, new_directory, new_file, silent
from donjon.model.restore_point import RestorePoint
from donjon.repository.format.go_json import unquote_name
from donjon.repository.format.tree import Node
from donjon.repository.reader import find_node, load_tree, read_file
from donjon.repository.repository import Repository

_PERMISSIONS = 0o777


def restore_side_file(
    repository: Repository, point: RestorePoint, inside: str, path: Path, *, announce: Announce = silent
) -> None:
    """Restore a file or directory at `inside` of a restore point as `path`, which must not exist; what it is in must.

    Owners are kept if we may set them, modes always. `announce` is told of the whole before it gets its name.

    Raises:
        RefusedError: `path` exists.
        HostError: it cannot be written.
        IntegrityError: it is damaged in the repository.
    """
    if path.exists():
        raise RefusedError(f"cannot restore {path}: it exists", hint="move it away, or restore under another name")
    _restore(repository, find_node(repository, point.tree, inside), path, announce)


def _restore(repository: Repository, node: Node, path: Path, announce: Announce = silent) -> None:
    try:
        if node.type == "dir":
            with new_directory(path, announce=announce) as directory:
                for child in load_tree(repository, bytes.fromhex(node.subtree or "")).nodes:
                    _restore(repository, child, directory / _plain_name(child))
                _take_on(node, directory)
        elif node.type == "file":
            with new_file(path, exist_ok=False, announce=announce) as unfinished:
                _write(unfinished, read_file(repository, node))
                _take_on(node, unfinished)
        else:
            raise IntegrityError(f"cannot restore {path}: the restore point has a {node.type} there")
    except OSError as error:
        raise HostError(f"cannot restore {path}: {error.strerror}") from error


def _plain_name(node: Node) -> str:
    name = unquote_name(node.name)
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise IntegrityError(f"cannot restore {node.name!r}: it is no name of a file")
    return name


def _write(path: Path, content: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        for piece in content:
            file.write(piece)


def _take_on(node: Node, path: Path) -> None:
    path.chmod(node.mode & _PERMISSIONS)
    if os.geteuid() == 0:
        os.chown(path, node.uid, node.gid)
