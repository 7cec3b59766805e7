# SPDX-License-Identifier: Apache-2.0
"""What every way of backing a VM up has in common: it holds the VM still and hands out its disks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

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


@dataclass(frozen=True, slots=True)
class Capture:
    """A VM that holds still.

    `verify` raises HostError if it did not after all; it must be called when the last byte has been read, before
    anything is committed, and closes the disks. `commit` is called when the restore point is durable: from then on it
    is what the next backup builds upon.
    """

    vm: Vm
    consistency: Consistency
    disks: tuple[CapturedDisk, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    verify: Callable[[], None]
    commit: Callable[[], None]


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
