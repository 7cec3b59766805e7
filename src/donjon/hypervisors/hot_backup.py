# SPDX-License-Identifier: Apache-2.0
"""What donjon needs of a hypervisor to back up a guest while it runs: jobs that hold a moment, and checkpoints."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from donjon.errors import HostError


@dataclass(frozen=True, slots=True)
class DiskJob:
    """What a backup job does with a disk.

    Attributes:
        target: the disk, by the guest's name for it (vda).
        scratch: a file that does not exist yet, for what the guest overwrites meanwhile; whoever began the job
            removes it afterwards (the hypervisor may have).
        since: the checkpoint whose changes are told beside the disk's content; None if nothing is to be told.
        track: whether changes from now on are recorded under the new checkpoint.
    """

    target: str
    scratch: Path
    since: str | None = None
    track: bool = True


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A moment since which the hypervisor records changes of some disks, by target."""

    name: str
    targets: frozenset[str]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ActiveJob:
    """What keeps a guest from beginning another job: `what` is "backup", "migration", ...

    `socket` is that of a backup that is read through a unix socket, and tells whose job it is.
    """

    what: str
    socket: str | None = None


@dataclass(frozen=True, slots=True)
class Owner:
    """Whom the process of a guest runs as; who may then open sockets and files."""

    uid: int
    gid: int


class CheckpointError(HostError):
    """A checkpoint is not known, or what it recorded is missing or broken: read the disks in full."""


class HotBackup(Protocol):
    """Backup of running guests, known by UUID. Every method raises HostError if the host is out of reach or refuses."""

    def qemu_owner(self, uuid: str) -> Owner:
        """Whom the guest's process runs as, as seen on its host."""
        ...

    def active_job(self, uuid: str) -> ActiveJob | None:
        """The job under way, if any. Returns at once, even while that job keeps others waiting."""
        ...

    def begin_backup(self, uuid: str, disks: Sequence[DiskJob], socket: Path, checkpoint: str | None) -> None:
        """Hold this moment of some disks, and serve it on a unix socket as NBD exports named by their targets.

        The export of a disk has the context base:allocation and, if the job says since when,
        "qemu:dirty-bitmap:backup-TARGET". No client may be in the middle of its handshake when the job ends: QEMU
        then hangs, and the guest with it.

        Args:
            uuid: of a guest that runs or is paused.
            disks: at least one; the others are left alone.
            socket: its path; the directory belongs to the guest's process, and nobody else may enter.
            checkpoint: name of the one that begins at the same moment, for the disks to be tracked; None for none.

        Raises:
            RefusedError: another job is active.
            CheckpointError: changes since a wanted checkpoint are not known. Nothing was begun.
            HostError: anything else. A job may have begun: `end_backup` makes sure.
        """
        ...

    def end_backup(self, uuid: str, socket: Path, timeout_s: float) -> None:
        """End the job that serves on that socket, and wait until it is gone; succeeds if there is none.

        Raises:
            HostError: it is still there after `timeout_s`.
        """
        ...

    def checkpoints(self, uuid: str) -> list[Checkpoint]:
        """All of a VM's, also those of others, the oldest first."""
        ...

    def adopt_checkpoint(self, uuid: str, name: str, targets: Collection[str]) -> None:
        """Make sure that a checkpoint is known and that each of these disks of a running guest has what it recorded.

        One that the hypervisor forgot (after migration, or a new definition) is known again afterwards.

        Raises:
            CheckpointError: what it recorded is missing or broken on one of the disks.
        """
        ...

    def delete_checkpoint(self, uuid: str, name: str) -> None:
        """Forget a checkpoint, and what it recorded if the guest runs; succeeds if it is unknown, as if the VM is."""
        ...

    def disk_errors(self, uuid: str) -> dict[str, str]:
        """What stopped the guest: by target, "no space" or "unspecified"; empty if nothing."""
        ...
