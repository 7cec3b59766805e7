# SPDX-License-Identifier: Apache-2.0
"""A running guest of the lab that backups are made of, and the truth about it: its bytes, its state, its host's CPU."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

from lab import LabError
from lab.agent import ask, do, wait_for_agent
from lab.guest import define, definition, start, virsh, wait_for, wait_until_off
from lab.guest_kit import GuestKit, guest_kit
from lab.libvirt_host import Host, libvirt_host
from lab.programs import run

NAME = "web01"
TICKS = os.sysconf("SC_CLK_TCK")
FROZEN_MAY_LAST_S = 5.0
UNLOCKED_S = 20.0


@dataclass(frozen=True)
class BenchGuest:
    """A guest on a libvirt host of its own; `folder` may be read by its QEMU, `console` gets what it says."""

    host: Host
    kit: GuestKit
    folder: Path
    console: Path

    @property
    def uri(self) -> str:
        return self.host.uri

    @property
    def inside(self) -> list[str]:
        """What a command begins with that sees this host's libvirt as qemu:///system."""
        return ["nsenter", "--target", str(self.host.namespace_pid()), "--mount", "--pid", "--net", "--uts", "--"]

    def boot(self, *jobs: str) -> None:
        """Start it, and wait for it and its agent."""
        wait_for(start(self.uri, NAME, *jobs), "ready")
        wait_for_agent(self.uri, NAME)

    def do(self, *jobs: str) -> None:
        """Let it do jobs (lab/init.sh)."""
        do(self.uri, NAME, *jobs)

    def do_later(self, job: str) -> None:
        """Let it do a job without waiting for it."""
        ask(self.uri, NAME, "guest-exec", path="/init", arg=[job])

    def virsh(self, *words: str) -> str:
        return virsh(self.uri, *words)

    @property
    def state(self) -> str:
        """As virsh says it."""
        return self.virsh("domstate", NAME).strip()

    def shut_down(self) -> None:
        """As its administrator does."""
        self.virsh("shutdown", NAME)
        wait_until_off(self.uri, NAME)

    def kill(self) -> None:
        """End QEMU with SIGKILL, and wait until libvirt knows."""
        os.kill(self.host.qemu_pid(NAME), signal.SIGKILL)
        wait_until_off(self.uri, NAME)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """What its disks hold does not change meanwhile."""
        self.virsh("suspend", NAME)
        try:
            yield
        finally:
            self.virsh("resume", NAME)

    def images(self) -> dict[str, Path]:
        """Of its disks, by target, all qcow2."""
        found = {}
        for disk in ElementTree.fromstring(self.virsh("dumpxml", NAME)).iterfind("devices/disk"):
            source, target = disk.find("source"), disk.find("target")
            assert source is not None
            assert target is not None
            found[target.attrib["dev"]] = Path(source.attrib["file"])
        return found

    def contents(self, folder: Path) -> dict[str, Path]:
        """Raw copies of what its disks hold now, made by QEMU itself."""
        folder.mkdir()
        images = self.images()
        for target, image in images.items():
            run("qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", image, folder / target)
        return {target: folder / target for target in images}

    def monitor(self, command: str, **arguments: object) -> Any:
        """QEMU's own answer."""
        question = json.dumps({"execute": command, "arguments": arguments})
        return json.loads(self.virsh("qemu-monitor-command", NAME, question))["return"]

    def has_job(self) -> bool:
        """Whether QEMU serves a backup."""
        return bool(self.monitor("query-block-exports") or self.monitor("query-jobs"))

    def is_frozen(self) -> bool:
        """Whether the guest's agent says so, and has said so for some seconds."""
        deadline = time.monotonic() + FROZEN_MAY_LAST_S
        while ask(self.uri, NAME, "guest-fsfreeze-status") == "frozen":
            if time.monotonic() > deadline:
                return True
            time.sleep(0.2)
        return False

    def checkpoints(self) -> set[str]:
        return set(self.virsh("checkpoint-list", NAME, "--name").split())

    def forget_checkpoints(self, *, bitmaps: bool) -> None:
        """Delete all checkpoints; without their bitmaps, as after the guest was defined anew, or if it is off."""
        metadata_only = not bitmaps or self.state == "shut off"
        for name in self.checkpoints():
            self.virsh("checkpoint-delete", NAME, name, *(["--metadata"] if metadata_only else []))

    def cpu_s(self, program: str) -> float:
        """CPU seconds so far of the processes of this name in the host's namespaces (15 bytes of it count)."""
        namespace = Path(f"/proc/{self.host.script.pid}/ns/pid_for_children").readlink()
        total = 0.0
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                head, _, rest = (folder / "stat").read_text().rpartition(")")
                if head.partition("(")[2] == program[:15] and (folder / "ns/pid").readlink() == namespace:
                    total += sum(map(int, rest.split()[11:13])) / TICKS
        return total


@contextmanager
def running_host() -> Iterator[tuple[Host, GuestKit]]:
    """A libvirt host of one's own, and what its guests boot."""
    kit = guest_kit()
    with libvirt_host() as host:
        yield host, kit


@contextmanager
def running_guest(host: Host, kit: GuestKit, disk: Path, *jobs: str, memory_mib: int = 192) -> Iterator[BenchGuest]:
    """A guest that has booted from a copy of a qcow2 image; nothing of it stays."""
    with TemporaryDirectory(dir=host.images) as name:
        folder = Path(name)
        shutil.copyfile(disk, folder / "vda.qcow2")
        guest = BenchGuest(host, kit, folder, folder / "console")
        disks = {"vda": (folder / "vda.qcow2", "qcow2")}
        define(host.uri, definition(kit, NAME, disks, guest.console, memory_mib))
        try:
            guest.boot(*jobs)
            yield guest
        finally:
            remove(host, NAME)


def remove(host: Host, name: str) -> None:
    """Nothing of a guest is left in its host but files."""
    with suppress(LabError):
        virsh(host.uri, "destroy", name)
    virsh(host.uri, "undefine", name, "--nvram", "--checkpoints-metadata", "--snapshots-metadata")


def make_disk(path: Path, size_mib: int, content: Path) -> None:
    """A qcow2 image with an ext4 that holds what a folder has."""
    raw = path.with_suffix(".raw")
    options = ["-q", "-t", "ext4", "-b", "4096", "-E", "lazy_itable_init=1,lazy_journal_init=1", "-d", str(content)]
    run("mke2fs", *options, raw, f"{size_mib}M", timeout_s=300)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path, timeout_s=300)
    raw.unlink()


def raw_of(image: Path) -> Path:
    """A raw copy of an image, beside it; waits for a server that still lets go of it. Raises LabError."""
    raw = image.with_name(f"{image.name}.content")
    deadline = time.monotonic() + UNLOCKED_S
    while True:
        try:
            run("qemu-img", "convert", "-O", "raw", image, raw, timeout_s=300)
        except LabError as error:
            if "lock" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return raw


def words_of(argv: Sequence[str | Path]) -> list[str]:
    return [str(word) for word in argv]
