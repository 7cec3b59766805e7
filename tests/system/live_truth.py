# SPDX-License-Identifier: Apache-2.0
"""What a running guest's disks really hold, and what backups leave behind on its host: asked of QEMU and libvirt."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

from lab.guest import virsh
from lab.programs import run
from tests.system.admin import TIMEOUT_S, Admin, digests
from tests.system.live import LiveBackup, LiveGuest, back_up_live, prove, spec_of

SETTLED_S = 60.0
OF_DONJON = "donjon-"
Disks = dict[str, Any]
LISTENING = """
import sys
from donjon import trace
from donjon.cli.main import main

with trace.listening(lambda point: sys.stderr.write(f"at {point}\\n")):
    sys.exit(main(sys.argv[1:]))
"""
HALTING = """
import sys
from donjon import trace
from donjon.cli.main import main

def listen(point):
    if point == sys.argv[1]:
        print(point, file=sys.stderr, flush=True)
        sys.stdin.readline()

with trace.listening(listen):
    sys.exit(main(sys.argv[2:]))
"""


@dataclass(frozen=True)
class Site:
    """A guest that runs, an administrator, and a folder for what the guest overwrites during a backup."""

    guest: LiveGuest
    admin: Admin
    scratch: Path
    least_free_mib: int = 1

    @property
    def words(self) -> list[str]:
        """The command that backs the guest up."""
        scratch = ["--scratch", str(self.scratch), "--least-free-scratch", str(self.least_free_mib)]
        return ["backup", self.guest.name, *scratch]

    def back_up(self, *words: str | Path) -> Disks:
        """Back the guest up as it runs; gives the report on each disk, by target."""
        return disks_of(self.admin.donjon(*self.words, *words)["backups"][0])

    def back_up_exactly(self, *words: str | Path) -> Disks:
        """Back it up while it is suspended; what is restored from that is what its disks held, byte for byte."""
        with self.suspended():
            report = self.admin.donjon(*self.words, *words)["backups"][0]
            assert report["restore_point"]["method"] == "live"
            with TemporaryDirectory(dir=self.admin.folder) as folder:
                held = digests(self.contents(Path(folder)))
                restored = digests(self.admin.restored(spec_of(report), Path(folder) / "restored"))
        assert restored == held
        return disks_of(report)

    def prove_writing(self) -> LiveBackup:
        """Back it up as it writes: what is restored is sound, and has all that was acknowledged before."""
        backup = back_up_live(self.admin, self.guest, *self.words[2:])
        folder = self.guest.host.new_folder(f"proof-{backup.report['restore_point']['id'][:8]}")
        assert prove(self.admin, self.guest, backup, folder)
        shutil.rmtree(folder)
        return backup

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """The guest does nothing, and all it wrote is in its images."""
        if self.guest.state == "paused":
            yield
            return
        virsh(self.guest.uri, "suspend", self.guest.name)
        try:
            yield
        finally:
            virsh(self.guest.uri, "resume", self.guest.name)

    def images(self) -> dict[str, tuple[Path, str]]:
        """What the guest's disks are now, and their formats, by target."""
        live = ElementTree.fromstring(virsh(self.guest.uri, "dumpxml", self.guest.name))
        found = {}
        for disk in live.iterfind("devices/disk"):
            target, driver, source = (disk.find(part) for part in ("target", "driver", "source"))
            assert target is not None
            assert driver is not None
            assert source is not None
            found[target.attrib["dev"]] = Path(source.attrib["file"]), driver.attrib["type"]
        return found

    def contents(self, folder: Path) -> dict[str, Path]:
        """Raw copies of what the disks hold, in a folder, by QEMU itself."""
        copies = {}
        for target, (image, image_format) in self.images().items():
            copies[target] = folder / target
            run("qemu-img", "convert", "-U", "-f", image_format, "-O", "raw", image, copies[target])
        return copies

    def checkpoints(self) -> set[str]:
        """Names of those libvirt knows."""
        return set(virsh(self.guest.uri, "checkpoint-list", self.guest.name, "--name").split())

    def bitmaps(self) -> set[str]:
        """Names of those QEMU has, whatever libvirt knows."""
        nodes = self.monitor("query-named-block-nodes", flat=True)
        return {bitmap["name"] for node in nodes for bitmap in node.get("dirty-bitmaps", [])}

    def monitor(self, command: str, **arguments: object) -> Any:
        """QEMU's own answer."""
        question = json.dumps({"execute": command, "arguments": arguments})
        return json.loads(virsh(self.guest.uri, "qemu-monitor-command", self.guest.name, question))["return"]

    def has_job(self) -> bool:
        """Whether QEMU serves a backup, or works on one."""
        return bool(self.monitor("query-block-exports") or self.monitor("query-jobs"))

    def nothing_is_left(self, checkpoints: int = 1) -> None:
        """Of all backups, but what the next one to each repository builds upon: at most so many checkpoints."""
        assert self.admin.owed() == []
        assert list(self.scratch.iterdir()) == []
        if self.guest.state == "shut off":
            return
        assert not self.has_job()
        ours = {name for name in self.checkpoints() if name.startswith(OF_DONJON)}
        assert len(ours) <= checkpoints
        assert {name for name in self.bitmaps() if name.startswith(OF_DONJON)} == ours
        assert self.guest.state == "paused" or not self.guest.is_frozen

    def settles_by_itself(self, checkpoints: int = 1) -> None:
        """Within seconds, without another command; then nothing is left."""
        wait_until(lambda: self.admin.owed() == [], "the watchdog has not settled what the backup left")
        self.nothing_is_left(checkpoints)

    def points(self) -> list[str]:
        """Of the program, in the order in which a backup reaches each for the first time."""
        command = [*self.admin.before, sys.executable, "-c", LISTENING, *self.words, "--json"]
        environment = {**os.environ, **self.admin.environment}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
        said = [line.removeprefix("at ") for line in done.stderr.splitlines() if line.startswith("at ")]
        return list(dict.fromkeys(said))

    @contextmanager
    def halted_at(self, point: str, *words: str | Path) -> Iterator[Halted]:
        """A backup in another process that waits at a point of the program; it is killed if it never gets further."""
        command = [*self.admin.before, sys.executable, "-c", HALTING, point, *self.words, *words, "--json"]
        with subprocess.Popen(
            [str(word) for word in command],
            env={**os.environ, **self.admin.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                assert process.stderr is not None
                said = []
                while (line := process.stderr.readline()).strip() != point:
                    said.append(line)
                    assert line, (point, said, process.stdout and process.stdout.read())
                yield Halted(process)
            finally:
                process.kill()


@dataclass(frozen=True)
class Halted:
    """A command that waits."""

    process: subprocess.Popen[str]

    def goes_on(self) -> tuple[int, Any]:
        """To its end; gives its exit code and what it says."""
        out, err = self.process.communicate("on\n", timeout=TIMEOUT_S)
        assert out, err
        return self.process.returncode, json.loads(out)

    def gets(self, number: signal.Signals) -> int:
        """Send it a signal that ends it; gives its exit code."""
        self.process.send_signal(number)
        self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode

    def children(self) -> list[int]:
        """Process ids of those it has started."""
        return [int(pid) for pid in run("ps", "-o", "pid=", "--ppid", self.process.pid).split()]


@contextmanager
def site_of(guest: LiveGuest, admin: Admin) -> Iterator[Site]:
    """With a scratch directory of its own, whose path is short, and which QEMU may enter."""
    with TemporaryDirectory(prefix=OF_DONJON, dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Site(guest, admin, Path(folder))


def is_incremental(disk: dict[str, int]) -> bool:
    """Whether only what had changed was read."""
    return disk["kept"] > 0 and disk["kept"] + disk["zero"] > disk["read"]


def disks_of(report: Any) -> Disks:
    """By target, what a backup says of them."""
    return {disk["target"]: disk for disk in report["disks"]}


def wait_until(is_so: Callable[[], bool], otherwise: str, timeout_s: float = SETTLED_S) -> None:
    """Wait for it."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.1)
