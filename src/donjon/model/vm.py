# SPDX-License-Identifier: Apache-2.0
"""A virtual machine as its host describes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Power(Enum):
    """What the guest is doing."""

    OFF = "off"
    RUNNING = "running"
    PAUSED = "paused"
    UNKNOWN = "unknown"


class Device(Enum):
    """What a disk is to the guest (libvirt's `device` attribute)."""

    DISK = "disk"
    CDROM = "cdrom"
    FLOPPY = "floppy"
    LUN = "lun"


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk of a VM.

    `target` is the guest's name for it (vda). `source` is a path on the host, None for an empty drive, or for one
    that is not a local file or device: then `remote` says what it is ("network: rbd pool/image").
    `image_format` is as libvirt declares it (raw, qcow2, ...), None when nobody says so.
    """

    target: str
    source: str | None
    image_format: str | None = None
    device: Device = Device.DISK
    read_only: bool = False
    shared: bool = False
    remote: str | None = None


@dataclass(frozen=True, slots=True)
class SideFile:
    """A file beside the disks without which the VM is not whole: firmware variables, TPM state, kernel, seed.

    `role` is one of nvram, tpm, kernel, initrd, dtb, seed; a tpm is a directory.
    """

    role: str
    path: str


@dataclass(frozen=True, slots=True)
class Vm:
    """A virtual machine; `definition` is its XML as the host keeps it, None when only disks are known.

    `live_definition` is its XML as it runs, None if it has no process: a guest whose memory was saved on disk is PAUSED
    without one.
    """

    uuid: str
    name: str
    host: str
    power: Power
    disks: tuple[Disk, ...]
    definition: str | None = None
    side_files: tuple[SideFile, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    live_definition: str | None = None

    @property
    def is_saved(self) -> bool:
        """Whether its memory is on disk, so that it stands still without a process."""
        return self.power is Power.PAUSED and self.live_definition is None
