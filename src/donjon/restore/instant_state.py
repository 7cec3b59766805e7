# SPDX-License-Identifier: Apache-2.0
"""What donjon knows, across commands, crashes and reboots, of the VMs that run from a repository: a file for each."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from donjon.errors import ConfigError, HostError, RefusedError
from donjon.images.new_file import new_file
from donjon.model.restore_point import RestorePoint

FORMAT = 1
SOCKET = "nbd"
_OWNER_ONLY = 0o700
_LONGEST_SOCKET = 107
"""In bytes. Source: unix(7), sun_path."""


@dataclass(frozen=True, slots=True)
class InstantDisk:
    """A disk: `overlay` is the qcow2 image that gets what the guest writes; size in bytes."""

    target: str
    overlay: str
    size: int


@dataclass(frozen=True, slots=True)
class OwnFile:
    """A file or directory that was made for the VM, known again by its inode: the guest writes to it."""

    path: str
    inode: int


@dataclass(frozen=True, slots=True)
class InstantState:
    """A VM that runs from a repository, or is about to.

    `uri` is its hypervisor's, `repository` and `repository_id` say which repository, `folder` holds the socket it is
    served on. `settled` is False until all of it is there: what a command that died left of it is a debt until then.
    """

    vm_uuid: str
    vm_name: str
    uri: str
    repository: str
    repository_id: str
    point: RestorePoint
    begun_at: datetime
    folder: str
    disks: tuple[InstantDisk, ...]
    files: tuple[OwnFile, ...]
    definition: str
    settled: bool = False
    format: int = FORMAT

    @property
    def socket(self) -> Path:
        """Where the exports are, named by the disks' targets."""
        return Path(self.folder) / SOCKET


class InstantStates:
    """The files, in a directory of their own, which is made when it is needed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def save(self, state: InstantState) -> None:
        """Keep it, whole and durable, in place of what was known. Raises HostError."""
        self._make_directory()
        with new_file(self._path(state.vm_uuid), exist_ok=True) as unfinished:
            unfinished.write_bytes(msgspec.json.encode(state))

    def list(self) -> list[InstantState]:
        """All, by name. Raises HostError."""
        states = (self.load(path.stem) for path in self.directory.glob("*.json"))
        return sorted((state for state in states if state), key=lambda state: (state.vm_name, state.vm_uuid))

    def load(self, vm_uuid: str) -> InstantState | None:
        """That of a VM; None if there is none. Raises HostError if it cannot be read."""
        path = self._path(vm_uuid)
        try:
            state = msgspec.json.decode(path.read_bytes(), type=InstantState)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise HostError(f"cannot read {path}: {error.strerror}") from error
        except msgspec.MsgspecError as error:
            raise HostError(f"cannot read {path}: {error}", hint="was it written by a newer donjon?") from error
        if state.format != FORMAT:
            raise HostError(f"cannot read {path}: it was written by another version of donjon")
        return state

    def find(self, name_or_uuid: str) -> InstantState:
        """The one that an operator means.

        Raises:
            ConfigError: there is none, or several of that name.
        """
        states = self.list()
        found = [state for state in states if name_or_uuid in (state.vm_name, state.vm_uuid)]
        if len(found) == 1:
            return found[0]
        if found:
            uuids = ", ".join(state.vm_uuid for state in found)
            raise ConfigError(f"cannot tell which {name_or_uuid!r} is meant", hint=f"say the UUID: {uuids}")
        known = ", ".join(state.vm_name for state in states) or "none"
        raise ConfigError(f"cannot find an instant restore of {name_or_uuid!r}", hint=f"from a repository run: {known}")

    def remove(self, vm_uuid: str) -> None:
        """Forget it; succeeds if it is not known."""
        self._path(vm_uuid).unlink(missing_ok=True)

    @contextmanager
    def alone(self, vm_uuid: str) -> Iterator[None]:
        """While the block runs no other command works on this VM. Raises RefusedError, HostError."""
        self._make_directory()
        path = self.directory / f"{vm_uuid}.lock"
        try:
            descriptor = _lock(path)
        except BlockingIOError as error:
            raise RefusedError(
                f"cannot work on the instant restore of {vm_uuid}: another donjon does", hint="wait for it to end"
            ) from error
        try:
            yield
        finally:
            if not self._path(vm_uuid).exists():
                path.unlink(missing_ok=True)
            os.close(descriptor)

    def _path(self, vm_uuid: str) -> Path:
        return self.directory / f"{vm_uuid}.json"

    def _make_directory(self) -> None:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise HostError(f"cannot make directory {self.directory}: {error.strerror}") from error


def socket_folder(directory: Path, vm_uuid: str) -> Path:
    """The folder for a VM's socket, beside its images: whoever may open these finds it.

    Raises:
        ConfigError: its path would be too long for a socket.
    """
    folder = directory / f".donjon-{hashlib.sha256(vm_uuid.encode()).hexdigest()[:8]}"
    if len(os.fsencode(folder / SOCKET)) > _LONGEST_SOCKET:
        raise ConfigError(
            f"cannot serve disks from {directory}: its path is too long for that of a socket",
            hint="choose a --directory with a shorter path",
        )
    return folder


def make_socket_folder(folder: Path, uid: int, gid: int) -> None:
    """Have the folder, for the guest's process only. Raises HostError."""
    try:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _take(descriptor, uid, gid)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise HostError(
            f"cannot make directory {folder} for the guest's process: {error.strerror}",
            hint="if something else is there, look at it and move it away",
        ) from error


def remove_socket_folder(folder: Path) -> None:
    """Remove it, and the socket unless somebody serves on it; whatever else is in it stays."""
    with suppress(OSError):
        if not _answers(folder / SOCKET):
            (folder / SOCKET).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _take(descriptor: int, uid: int, gid: int) -> None:
    """Have a directory belong to the guest's process, and nobody else enter it. Raises PermissionError."""
    status = os.fstat(descriptor)
    if status.st_uid not in (uid, os.geteuid()):
        raise PermissionError(errno.EPERM, "it belongs to somebody else")
    if (status.st_uid, status.st_gid) != (uid, gid):
        os.fchown(descriptor, uid, gid)
    if stat.S_IMODE(status.st_mode) != _OWNER_ONLY:
        os.fchmod(descriptor, _OWNER_ONLY)


def _answers(path: Path) -> bool:
    """Whether somebody listens on a socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client, suppress(OSError):
        client.connect(os.fspath(path))
        return True
    return False


def _lock(path: Path) -> int:
    """The file, locked; never one that its last user has removed meanwhile. Raises BlockingIOError."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
