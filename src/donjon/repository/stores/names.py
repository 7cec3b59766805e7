# SPDX-License-Identifier: Apache-2.0
"""Which names belong to files of a repository.

Source: restic design.rst, "Repository Layout"; temporary names as restic's local backend makes them.
"""

from __future__ import annotations

import re
import secrets

from donjon.errors import StoreError
from donjon.repository.store import FileName, FileType

_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)
_TEMPORARY = re.compile(r"(config|[0-9a-f]{64})-tmp-[0-9A-Za-z]+", re.ASCII)


def is_id(name: str) -> bool:
    """Whether a listing shows it: 64 lower-case hex digits."""
    return _ID.fullmatch(name) is not None


def is_temporary(name: str) -> bool:
    """Whether somebody is writing the file, or died writing it."""
    return _TEMPORARY.fullmatch(name) is not None


def temporary_name(final: str) -> str:
    """A new name to write a file under before it gets its final name."""
    return f"{final}-tmp-{secrets.token_hex(8)}"


def check_name(file: FileName) -> None:
    """Let only names pass that a repository has; keeps a forged name from reaching out of the store.

    Raises:
        StoreError: it is no such name.
    """
    valid = file.name == "" if file.type is FileType.CONFIG else is_id(file.name)
    if not valid:
        raise StoreError(f"cannot use {file.type.value}/{file.name!r}: it is not the name of a repository file")
