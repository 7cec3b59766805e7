# SPDX-License-Identifier: Apache-2.0
"""A folder on a fast disk for what a guest overwrites while it is backed up, which only its process may enter."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from donjon import trace
from donjon.errors import ConfigError, HostError
from donjon.hypervisors.hot_backup import Owner
from donjon.state.ledger import Ledger

SCRATCH_DEBT = "host.folder"

_PREFIX = "donjon-"
_MIB = 1 << 20


@contextmanager
def scratch_for(ledger: Ledger, directory: Path, owner: Owner, least_free: int) -> Iterator[Path]:
    """Such a folder (0700, owned by the guest's process), for as long as the block lasts.

    Args:
        ledger: where it is owed.
        directory: where it is made; everybody must be able to enter it, as /var/tmp, and its path must be short, for
            a socket's may have 107 bytes only.
        owner: of the guest's process.
        least_free: bytes that must be free there.

    Raises:
        ConfigError: the directory is of no use.
        HostError: the folder cannot be made, or there is too little space.
    """
    if not directory.is_dir():
        raise ConfigError(f"cannot use the scratch directory {directory}: there is no such directory")
    if (free := free_space(directory)) < least_free:
        raise HostError(
            f"cannot use the scratch directory {directory}: only {free // _MIB} MiB are free, not {least_free // _MIB}",
            hint="what the guest overwrites meanwhile is kept there: make room, or name another disk with --scratch",
        )
    folder = directory / f"{_PREFIX}{secrets.token_hex(8)}"
    with ledger.owing(SCRATCH_DEBT, path=str(folder)):
        trace.reached("scratch.owed")
        _make(folder, owner)
        trace.reached("scratch.made-for-guest")
        yield folder


def free_space(directory: Path) -> int:
    """Bytes that may still be written there. Raises HostError."""
    try:
        status = os.statvfs(directory)
    except OSError as error:
        raise HostError(f"cannot look at {directory}: {error.strerror}") from error
    return status.f_bavail * status.f_frsize


def remove_scratch(path: str) -> None:
    """Remove such a folder and all it holds; succeeds if it is gone.

    Raises:
        HostError: it cannot be removed, or is no folder of ours.
    """
    folder = Path(path)
    try:
        if not folder.name.startswith(_PREFIX) or not stat.S_ISDIR(folder.lstat().st_mode):
            raise HostError(f"cannot remove {folder}: it is not the folder that was made")
        shutil.rmtree(folder)
    except FileNotFoundError:
        if folder.exists():
            remove_scratch(path)  # the hypervisor removed a file of it at the same time
    except OSError as error:
        raise HostError(f"cannot remove the scratch folder {folder}: {error.strerror}") from error


def _make(folder: Path, owner: Owner) -> None:
    try:
        folder.mkdir(mode=0o700)
        if (owner.uid, owner.gid) != (os.geteuid(), os.getegid()):
            os.chown(folder, owner.uid, owner.gid)
    except PermissionError as error:
        raise HostError(
            f"cannot make the scratch folder {folder} for user {owner.uid}: {error.strerror}", hint="run donjon as root"
        ) from error
    except OSError as error:
        raise HostError(f"cannot make the scratch folder {folder}: {error.strerror}") from error
