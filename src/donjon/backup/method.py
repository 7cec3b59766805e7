# SPDX-License-Identifier: Apache-2.0
"""What every way of backing a VM up has in common: it holds the VM still and hands out its disks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from donjon.errors import HostError
from donjon.model.block_source import BlockSource
from donjon.model.restore_point import Consistency, ImageStamp, LeftOut, Manifest
from donjon.model.vm import Disk, Vm


@dataclass(frozen=True, slots=True)
class CapturedDisk:
    """A disk that holds still.

    `size` in bytes. `reason` says why all of it must be read, or why not. `checkpoint` is where change tracking starts
    anew at this moment. `stamps`, `image_format` and `image_options` are as in DiskPoint.
    """

    disk: Disk
    source: BlockSource
    reason: str
    image_format: str
    image_options: dict[str, str]
    stamps: tuple[ImageStamp, ...]
    checkpoint: str | None
    had_internal_snapshots: bool


def _as_it_is(error: HostError) -> HostError:
    return error


@dataclass(frozen=True, slots=True)
class Capture:
    """A VM that holds still.

    `verify` raises HostError if it did not after all; it must be called when the last byte has been read, before
    anything is committed, and closes the disks. `commit` is called when the restore point is durable and has been read
    back: from then on it is what the next backup builds upon. Without it, what was begun for the next backup is undone
    when the capture is left, with an exception or without. `explain` makes of an error met while reading one that says
    why, where that is known.

    `frozen_s` is how long the guest's file systems were frozen, in seconds; None where nothing was to be frozen.
    `live_definition` is the XML of the guest as it ran, with what was plugged in meanwhile; None if it did not run.
    `witness` is as in Manifest.
    """

    vm: Vm
    consistency: Consistency
    disks: tuple[CapturedDisk, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    verify: Callable[[], None]
    commit: Callable[[], None]
    explain: Callable[[HostError], HostError] = _as_it_is
    frozen_s: float | None = None
    live_definition: str | None = None
    witness: dict[str, str] = field(default_factory=dict)


class Method(Protocol):
    """A way of backing a VM up."""

    @property
    def name(self) -> str:
        """As it is kept in restore points."""
        ...

    def capture(self, vm: Vm, since: Manifest | None) -> AbstractContextManager[Capture]:
        """Hold the VM still for as short as can be, and leave it and its host as they were.

        Args:
            vm: as its hypervisor describes it.
            since: the restore point that CLEAN extents refer to, if there is one.

        Raises:
            RefusedError: it cannot be done without something that the operator has not allowed.
            HostError: the host, the guest or an image stands in the way.
        """
        ...


class GroupMethod(Method, Protocol):
    """A way of backing up that can take several VMs at one point in time."""

    def capture_together(self, vms: Sequence[tuple[Vm, Manifest | None]]) -> AbstractContextManager[list[Capture]]:
        """Hold all these VMs still at one moment; the captures are in the order of `vms`.

        Each is committed on its own: what one has begun for its next backup is undone on leaving if it was not, while
        the others keep theirs. If one VM cannot be captured, none is.

        Args:
            vms: each with the restore point that its CLEAN extents refer to, if there is one.

        Raises:
            RefusedError, HostError: as `capture`.
        """
        ...
