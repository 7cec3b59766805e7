# SPDX-License-Identifier: Apache-2.0
"""The disks of a restore point as files."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from donjon.cli.commands.files import open_disks
from donjon.cli.commands.points import Spec, find_point
from donjon.cli.options import COMMON, Common, Given, NoLock
from donjon.cli.session import Session
from donjon.errors import HostError
from donjon.restore_points import safe_name


def mount(
    point: Spec,
    directory: Annotated[Path, Parameter(metavar="DIR", help="An empty directory.")],
    /,
    *,
    no_lock: NoLock = False,
    common: Common = COMMON,
    program: Given,
) -> None:
    """Show the disks of a restore point as raw files, read only, until the directory is unmounted or Ctrl-C.

    It needs FUSE. The repository stays locked meanwhile: nothing is removed from it.

    Examples:
        donjon mount web01@2026-11-22 /mnt/web01

        fusermount3 -u /mnt/web01
    """
    try:
        from donjon.guest_files.mount import mount_disks
    except (ImportError, OSError) as error:
        raise HostError(
            f"cannot mount on {directory}: FUSE is not installed",
            hint="pip install 'donjon[fuse]'; on Debian the package fuse3 is needed too",
        ) from error
    session = Session(common, program)
    with session.reading(no_lock=no_lock) as repository, ExitStack() as held:
        found = find_point(session.restore_points(repository), point)
        disks = {f"{safe_name(name)}.raw": disk for name, disk in open_disks(repository, found, held)}
        session.tell(f"{directory}: {', '.join(disks)}; Ctrl-C or `fusermount3 -u` ends it")
        mount_disks(disks, directory, found.taken_at.timestamp())
