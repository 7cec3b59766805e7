# SPDX-License-Identifier: Apache-2.0
"""Files that verbs write reports and plans to: never over another, which is said before any work is done."""

from __future__ import annotations

from pathlib import Path

from donjon.errors import ConfigError
from donjon.images.new_file import new_file


def check_new(path: Path) -> None:
    """Whether a file can be made there.

    Raises:
        ConfigError: there is one already, or no such directory.
    """
    if path.exists() or path.is_symlink():
        raise ConfigError(f"cannot write {path}: it exists", hint="name another file, or remove it")
    if not path.parent.is_dir():
        raise ConfigError(f"cannot write {path}: there is no directory {path.parent}")


def write_new(path: Path, content: bytes) -> None:
    """Make the file, whole or not at all. Raises RefusedError, HostError."""
    with new_file(path, exist_ok=False) as unfinished:
        unfinished.write_bytes(content)
