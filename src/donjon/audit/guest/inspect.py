# SPDX-License-Identifier: Apache-2.0
"""Looks into a guest's disks, in an image file or in a restore point, without mounting or running anything of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from donjon.audit.fact import Known, Unknown
from donjon.audit.facts.guests import Guest
from donjon.audit.facts.packages import Packages
from donjon.audit.facts.platform import Release
from donjon.audit.guest import system
from donjon.audit.guest.leftovers import find_leftovers
from donjon.audit.guest.links import find_links
from donjon.audit.guest.packages import read_packages
from donjon.audit.guest.secrets import find_secrets
from donjon.audit.guest.tree import GuestTree, LimitedDisk, describe
from donjon.errors import DonjonError
from donjon.guest_files.guest import Disk, GuestFiles, guest_files
from donjon.images.image import open_image
from donjon.images.inspection import probe
from donjon.model.block_source import BlockSource

MOST_BYTES = 64 << 20
PATIENCE_S = 20.0
LONGEST_S = 60.0


def inspect_image(path: Path, image_format: str | None = None) -> Guest:
    """The facts of a guest that has this one disk.

    Args:
        path: of an image of any format, in use by nobody.
        image_format: as its owner states it; None: QEMU guesses.

    Raises:
        HostError: the image cannot be opened, or changed meanwhile.
    """
    with open_image(probe(path, image_format)) as image:
        return inspect_disks([("disk", SourceDisk(image))], str(path))


def inspect_disks(disks: Sequence[tuple[str, Disk]], source: str = "", passphrases: Sequence[str] = ()) -> Guest:
    """The facts of a guest that has these disks; at most 64 MiB are read of them, in a minute at most.

    What cannot be seen is unknown, whatever is wrong with the disks.
    """
    until = time.monotonic() + LONGEST_S
    left = MOST_BYTES // max(1, len(disks))
    limited = [(name, LimitedDisk(disk, left, until)) for name, disk in disks]
    try:
        with guest_files(limited, passphrases, patience_s=PATIENCE_S) as files:
            return _facts(files, source)
    except DonjonError as error:
        return unknown_guest(str(error), source)


def unknown_guest(reason: str, source: str = "") -> Guest:
    """A guest of which nothing can be seen, and why."""
    unseen = Unknown(reason)
    return Guest(
        source, release=unseen, packages=Packages(unseen, unseen), kernels=unseen,
        identities=dict.fromkeys(system.IDENTITIES, unseen), host_keys=unseen, makes_host_keys=unseen, accounts=unseen,
        authorized_keys=unseen, secrets=unseen, leftovers=unseen, agent=unseen,
        units=unseen, configs=unseen, links=unseen,
    )  # fmt: skip


def _facts(files: GuestFiles, source: str) -> Guest:
    tree = GuestTree(files)
    if tree.root is None:
        return _foreign(files, source)
    return Guest(
        source=source,
        notes=tuple(f"{volume.name}: {volume.note}" for volume in files.volumes if volume.note),
        release=tree.look("/etc/os-release", lambda: system.release(tree)),
        packages=read_packages(tree),
        kernels=tree.look("/boot", lambda: system.kernels(tree)),
        identities=system.identities(tree),
        host_keys=tree.look("/etc/ssh", lambda: system.host_keys(tree)),
        makes_host_keys=tree.look("/etc/systemd/system", lambda: system.makes_host_keys(tree)),
        accounts=tree.look("/etc/passwd and shadow", lambda: system.accounts(tree)),
        authorized_keys=tree.look("~/.ssh", lambda: system.authorized_keys(tree)),
        secrets=tree.look("files of the guest", lambda: find_secrets(tree)),
        leftovers=tree.look("files of the guest", lambda: find_leftovers(tree)),
        agent=tree.look("qemu-ga and its configuration", lambda: system.agent(tree)),
        units=tree.look("/etc/systemd/system", lambda: system.units(tree)),
        configs=tree.look("/etc", lambda: system.configs(tree)),
        links=tree.look("network configuration", lambda: find_links(tree)),
    )


def _foreign(files: GuestFiles, source: str) -> Guest:
    """A guest without a Linux system that can be read; Windows is told by its directory."""
    for volume in files.volumes:
        if volume.readable and volume.content == "ntfs" and _has(files, volume.name, "Windows", "System32"):
            guest = unknown_guest("a Windows guest, into which is not looked further", source)
            return replace(guest, release=Known(Release("windows", "", (), "Windows"), volume.name))
    return unknown_guest(f"no Linux system was found; volumes: {describe(files.volumes)}", source)


def _has(files: GuestFiles, volume: str, *path: str) -> bool:
    try:
        return bool(list(files.walk(volume, path, depth=0)))
    except FileNotFoundError:
        return False


class SourceDisk:
    """An open image, as the sandboxed reader asks for it."""

    def __init__(self, source: BlockSource) -> None:
        self.size = source.size
        self._source = source

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from `offset` on. Raises HostError."""
        content = bytearray(max(0, min(length, self.size - offset)))
        self._source.read_into(offset, memoryview(content))
        return bytes(content)
