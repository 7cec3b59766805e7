# SPDX-License-Identifier: Apache-2.0
"""What a guest's writers have said is durable, and what a disk image has kept of it.

The truth about a backup of a running guest: what is restored has at least all that was acknowledged when the file
systems were frozen, nothing of it bad, and nothing that was written later.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from lab import LabError
from lab.guest import define, definition, run_jobs, said, virsh
from lab.guest_kit import GuestKit
from lab.libvirt_host import Host
from lab.programs import run

DATABASE = "database"
FREEZE = "hook freeze"
CHECKED = re.compile(r"checked (\w+): (\d+) recovered, (\d+) bad(?:, (\d+) bytes of log)?$")
EXAMINER = "examiner"


@dataclass(frozen=True, slots=True)
class Found:
    """What a writer's part of a disk holds: how many operations, how much that is wrong, a database's log in bytes."""

    recovered: int
    bad: int
    log_size: int | None = None


def acked(console: Path, writer: str = "vda") -> int:
    """The last operation that a writer (vda, database) has said is durable; 0 if it has said nothing."""
    return _last_ack(said(console), writer)


def acked_before_freeze(console: Path, writer: str = "vda") -> int:
    """As `acked`, when the guest agent was last told to freeze. Raises LabError if it never was."""
    lines = said(console)
    if FREEZE not in lines:
        raise LabError("the guest was never frozen")
    newest = len(lines) - 1 - lines[::-1].index(FREEZE)
    return _last_ack(lines[:newest], writer)


def wait_for_more(console: Path, writer: str = "vda", more: int = 10, timeout_s: float = 120) -> int:
    """Wait until a writer has gone on by some operations; gives the last one. Raises LabError."""
    goal = acked(console, writer) + more
    deadline = time.monotonic() + timeout_s
    while (reached := acked(console, writer)) < goal:
        if time.monotonic() > deadline:
            raise LabError(f"the guest's writer {writer} stands still at {reached}")
        time.sleep(0.1)
    return reached


def checked(lines: Sequence[str]) -> dict[str, Found]:
    """What the job `check` says, by writer."""
    found = {}
    for match in filter(None, map(CHECKED.match, lines)):
        writer, recovered, bad, log_size = match.groups()
        found[writer] = Found(int(recovered), int(bad), int(log_size) if log_size else None)
    return found


def examine(host: Host, kit: GuestKit, images: Mapping[str, Path]) -> dict[str, Found]:
    """Boot a guest from disk images, by target, and let it check them; the images stay as they are.

    Raises:
        LabError: it does not boot, or finds a database that is not sound.
    """
    place = next(iter(images.values())).parent
    with TemporaryDirectory(prefix=".examined-", dir=place) as name:
        folder, uri = Path(name), host.uri
        folder.chmod(0o755)  # QEMU may be somebody else
        disks = {}
        for target, image in images.items():
            overlay = folder / f"{target}.qcow2"
            image_format = "raw" if image.suffix == ".raw" else "qcow2"
            run("qemu-img", "create", "-q", "-f", "qcow2", "-b", image.resolve(), "-F", image_format, overlay)
            disks[target] = (overlay, "qcow2")
        host.give(folder, *(overlay for overlay, _ in disks.values()))
        define(uri, definition(kit, EXAMINER, disks, folder / "console"))
        try:
            return checked(run_jobs(uri, EXAMINER, "check"))
        finally:
            virsh(uri, "undefine", EXAMINER)


def _last_ack(lines: Sequence[str], writer: str) -> int:
    begin = f"ACK {writer} "
    return next((int(line.removeprefix(begin)) for line in reversed(lines) if line.startswith(begin)), 0)
