# SPDX-License-Identifier: Apache-2.0
"""A running guest that can prove what it wrote, and the proof of a backup that was made of it meanwhile."""

from __future__ import annotations

import itertools
import os
import re
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import LabError, witness
from lab.agent import ask, do, wait_for_agent
from lab.guest import create_disk, define, definition, start, wait_for
from lab.guest_kit import GuestKit
from lab.libvirt_host import Host
from lab.template import DISKS, NAME, Template, images_in, make_template
from lab.witness import Found
from tests.system.admin import Admin, Guest, make_admin

WRITERS = ("vda", "vdb", witness.DATABASE)
RESTORED = re.compile(r"-(vd[a-z])\.(?:qcow2|raw)$")
NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class LiveGuest(Guest):
    """A guest that runs on `host`; `console` gets what it says."""

    host: Host
    kit: GuestKit
    console: Path

    def do(self, *jobs: str) -> list[str]:
        """Let it do jobs (lab/init.sh) while it runs; gives its results."""
        return do(self.uri, self.name, *jobs)

    def start(self, *jobs: str) -> None:
        """Boot it when it is off; the jobs run once its agent answers."""
        wait_for(start(self.uri, self.name), "ready")
        wait_for_agent(self.uri, self.name)
        if jobs:
            self.do(*jobs)

    def acked(self, writer: str = "vda") -> int:
        """The last operation that is durable, says the guest."""
        return witness.acked(self.console, writer)

    def writes_on(self, writer: str = "vda") -> int:
        """Wait until it has written more, which proves that it runs and is not frozen; gives the last operation."""
        return witness.wait_for_more(self.console, writer)

    @property
    def is_frozen(self) -> bool:
        """Says its agent."""
        return bool(ask(self.uri, self.name, "guest-fsfreeze-status") == "frozen")

    def signal_qemu(self, number: signal.Signals) -> None:
        """To kill, stop or continue its QEMU; SIGKILL returns when libvirt has seen that it is off."""
        os.kill(self.host.qemu_pid(self.name), number)
        deadline = time.monotonic() + 20
        while number == signal.SIGKILL and self.state != "shut off":
            if time.monotonic() > deadline:
                raise LabError(f"guest {self.name} lives on without its QEMU")
            time.sleep(0.1)

    def check_restored(self, folder: Path) -> dict[str, Found]:
        """What a guest that boots from the disks restored to a folder finds, by writer."""
        restored = {found[1]: path for path in folder.iterdir() if (found := RESTORED.search(path.name))}
        for path in (folder, *restored.values()):
            self.host.give(path)
        return witness.examine(self.host, self.kit, restored)


@dataclass(frozen=True)
class LiveBackup:
    """A backup of a running guest: donjon's report, and what was acknowledged at the latest before and after it."""

    report: Any
    before: Mapping[str, int]
    after: Mapping[str, int]

    @property
    def spec(self) -> str:
        """NAME@ID of the restore point."""
        return spec_of(self.report)

    def is_proven_by(self, found: Mapping[str, Found]) -> None:
        """What was restored is what the guest had at one moment of the backup."""
        for writer, last in self.before.items():
            assert found[writer].bad == 0, (writer, found)
            # One operation may be in the log and not be acknowledged yet.
            assert last <= found[writer].recovered <= self.after[writer] + 1, (writer, found, self)


@dataclass
class LiveGuests:
    """Gives running guests; each host boots one once, and saves it."""

    kit: GuestKit
    templates: dict[str, Template] = field(default_factory=dict)

    @contextmanager
    def running(self, host: Host) -> Iterator[LiveGuest]:
        """A guest with its own disks, on a host that runs one at a time; it is gone in the end, with its disks."""
        if host.uri not in self.templates:
            self.templates[host.uri] = make_template(host, self.kit, host.new_folder("template"))
        template = self.templates[host.uri]
        folder = host.new_folder(f"guest-{next(NUMBERS)}")
        console = folder / "console"
        guest = LiveGuest(host.uri, NAME, template.start(folder, console), host, template.kit, console)
        try:
            yield guest
        finally:
            guest.remove()

    @contextmanager
    def booted(self, host: Host, name: str) -> Iterator[LiveGuest]:
        """The same with a name of its own, for several guests at a time; it takes longer."""
        folder = host.new_folder(f"guest-{next(NUMBERS)}")
        kit, images, console = host.own(self.kit, folder), images_in(folder), folder / "console"
        for target, (image_format, size_mib) in DISKS.items():
            create_disk(images[target], size_mib, image_format)
        host.give(*images.values())
        disks = {target: (image, DISKS[target][0]) for target, image in images.items()}
        define(host.uri, definition(kit, name, disks, console))
        guest = LiveGuest(host.uri, name, images, host, kit, console)
        try:
            guest.start()
            yield guest
        finally:
            guest.remove()


def back_up_live(admin: Admin, guest: LiveGuest, *words: str | Path) -> LiveBackup:
    """Back it up while it runs; when the backup is done it goes on writing."""
    before = _acked(guest)
    report = admin.donjon("backup", guest.name, *words)["backups"][0]
    if "vda" in before:
        guest.writes_on()
    return LiveBackup(report, before, _acked(guest))


def prove(admin: Admin, guest: LiveGuest, backup: LiveBackup, folder: Path) -> dict[str, Found]:
    """Restore it to a new folder, boot from that, and compare with what the guest had acknowledged."""
    admin.donjon("restore", backup.spec, "--to-dir", folder)
    found = guest.check_restored(folder)
    backup.is_proven_by(found)
    return found


def spec_of(report: Any) -> str:
    """NAME@ID of the restore point that a backup has made."""
    point = report["restore_point"]
    return f"{point['vm_name']}@{point['id'][:16]}"


def admin_of(host: Host, folder: Path) -> Admin:
    """An administrator who is who the host's daemon belongs to; all that is theirs is in `folder`."""
    admin = make_admin(folder, host.uri, TMPDIR=str(folder), HOME=str(host.folder))
    if not host.account:
        return admin
    host.give(folder, *folder.rglob("*"))
    return Admin(admin.folder, admin.environment, host.account.before())


def _acked(guest: LiveGuest) -> dict[str, int]:
    """By writer that writes at all."""
    return {writer: last for writer in WRITERS if (last := guest.acked(writer))}
