# SPDX-License-Identifier: Apache-2.0
"""Options of restore: where to, and how."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from donjon.cli.options import Connect, NoLock
from donjon.errors import ConfigError, HostError, RefusedError
from donjon.hypervisors.hypervisor import Hypervisor

Format = Literal["raw", "qcow2"]


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where to."""

    disk: Annotated[tuple[str, ...], Parameter(metavar="TARGET")] = ()
    """Which disk: one for --to; with --in-place may be repeated."""

    to: Annotated[str | None, Parameter(metavar="FILE|DEVICE|-", allow_leading_hyphen=True)] = None
    """Restore one disk to a file, a block device or standard output."""

    to_dir: Annotated[Path | None, Parameter(metavar="DIR")] = None
    """Restore everything into a directory, without telling libvirt."""

    directory: Annotated[Path | None, Parameter(metavar="DIR")] = None
    """Restore the VM, its files into this directory, and define it."""

    pool: Annotated[str | None, Parameter(metavar="POOL")] = None
    """The same, into the directory of a storage pool."""

    disk_to: Annotated[tuple[str, ...], Parameter(metavar="TARGET=DEVICE")] = ()
    """With a whole VM: this disk over a block device, with --force; may be repeated."""

    in_place: bool = False
    """Put the disks of a VM that exists back to what they were, and only them; the present ones are kept beside."""

    def devices(self) -> tuple[tuple[str, Path], ...]:
        """Block devices by target. Raises ConfigError."""
        words = [text.partition("=") for text in self.disk_to]
        for target, _, device in words:
            if not (target and device):
                raise ConfigError(
                    f"cannot read --disk-to {target}", hint="write TARGET=DEVICE, as in --disk-to vda=/dev/vg0/web01"
                )
        return tuple((target, Path(device)) for target, _, device in words)


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How."""

    force: bool = False
    """With --to: replace the file that is there, or overwrite the device. With --disk-to: overwrite the device."""

    discard_present: bool = False
    """With --in-place: do not keep the present disks."""

    name: Annotated[str | None, Parameter(metavar="NEW")] = None
    """Give the VM another name, and with it a new identity."""

    new_identity: bool = False
    """Give the VM a new UUID and new MAC addresses."""

    format: Annotated[Format | None, Parameter(metavar="raw|qcow2")] = None
    """Format of the images (else as it was; with --to, raw unless FILE ends in .qcow2)."""

    connect: Connect = None

    start: bool = False
    """Start the VM when it is restored."""

    no_lock: NoLock = False


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Instant:
    """Run from the repository."""

    instant: bool = False
    """With --directory or --pool: run the VM at once; it reads its disks from the repository."""

    finish: bool = False
    """Bring the disks of a VM that runs from the repository to its directory, while it runs."""

    resume: bool = False
    """Have a VM that ran from the repository go on, after its server or host went down."""

    discard: bool = False
    """Remove a VM that runs from the repository, with all it has written."""

    @property
    def continues(self) -> bool:
        """Whether a VM is meant that runs from the repository already."""
        return self.finish or self.resume or self.discard


TARGET = Target()
MANNER = Manner()
INSTANT = Instant()


def check_instant(instant: Instant, target: Target, manner: Manner) -> None:
    """Do nothing if the options go together. Raises ConfigError."""
    if instant.instant + instant.finish + instant.resume + instant.discard > 1:
        raise ConfigError("cannot restore: say one of --instant, --finish, --resume and --discard")
    if instant.continues and (target != TARGET or manner != replace(MANNER, no_lock=manner.no_lock)):
        raise ConfigError(
            "cannot restore: --finish, --resume and --discard take no other options",
            hint="what they need to know was said with --instant",
        )
    if instant.instant and (target.in_place or not (target.directory or target.pool)):
        raise ConfigError("cannot restore: --instant only goes with --directory or --pool")
    for given, option in ((target.disk_to, "--disk-to"), (manner.format, "--format"), (manner.start, "--start")):
        if instant.instant and given:
            raise ConfigError(
                f"cannot restore: {option} does not go with --instant",
                hint="the VM is started, and all its disks become qcow2 images",
            )


def find_directory(target: Target, hypervisor: Hypervisor) -> Path:
    """Where the files of a VM go that is to be defined. Raises HostError."""
    if target.directory is not None:
        return target.directory
    assert target.pool is not None
    directory = hypervisor.pool_path(target.pool)
    if not directory.is_dir():
        raise HostError(
            f"cannot restore into the pool {target.pool}: its directory {directory} is not there",
            hint=f"mount it, or `virsh pool-build {target.pool}`",
        )
    return directory


def check_options(target: Target, manner: Manner, *, as_json: bool) -> None:
    """Do nothing if the options go together.

    Raises:
        ConfigError: they do not.
        RefusedError: a device would be overwritten without --force.
    """
    places = [place for place in (target.to, target.to_dir, target.directory, target.pool) if place is not None]
    if len(places) + target.in_place != 1:
        raise ConfigError(
            "cannot restore: say where to, once",
            hint="--directory or --pool restores and defines the VM, --to-dir its files only, --in-place rolls it"
            " back, --disk vda --to FILE restores a disk",
        )
    whole_vm = target.to_dir or target.directory or target.pool
    for given, fits, option, place in (
        (target.disk, target.to or target.in_place, "--disk", "--to or --in-place"),
        (target.disk_to, whole_vm, "--disk-to", "a whole VM"),
        (manner.force, target.to or target.disk_to, "--force", "--to or --disk-to"),
        (manner.discard_present, target.in_place, "--discard-present", "--in-place"),
        (manner.name or manner.new_identity, whole_vm, "--name", "a whole VM"),
        (manner.format, not target.in_place, "--format", "new images"),
        (manner.start, not (target.to or target.to_dir), "--start", "a VM that libvirt knows"),
    ):
        if given and not fits:
            raise ConfigError(f"cannot restore: {option} only goes with {place}")
    if as_json and target.to == "-":
        raise ConfigError("cannot write both a disk and JSON to standard output")
    if target.disk_to and not manner.force:
        raise RefusedError(
            f"cannot restore to {target.disk_to[0].partition('=')[2]}: its content would be lost",
            hint="say --force, or choose another place",
        )
