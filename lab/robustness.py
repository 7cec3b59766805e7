# SPDX-License-Identifier: Apache-2.0
"""Random things happen to a real guest and its host, backups among them; every restore point must be right.

    python -m lab.robustness --seed 7 --minutes 120

The same seed does the same things in the same order. The truth about a restore point is never donjon's own word: of a
guest that is suspended or off, the bytes of its disks; of one that writes, what its writers had acknowledged.

Exit status: 0 all was right, 1 something was not (the last line says in which step), 2 this machine cannot.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from lab import LabError, LabUnavailableError
from lab.guest import virsh, wait_until_off
from lab.guest_kit import guest_kit
from lab.libvirt_host import Host, libvirt_host
from lab.programs import run
from lab.witness import DATABASE
from tests.system.admin import Admin, digests, make_admin
from tests.system.live import LiveGuest, LiveGuests, back_up_live, prove, spec_of

PLACE = "/var/tmp"  # on disk also where /tmp is in memory
LARGEST_MIB = 4
GROWTH_MIB = 16
MOST_GROWTHS = 8
DEATHS = (
    "lock.written", "scratch.owed", "live.owed", "freeze.frozen", "live.frozen", "live.begun", "freeze.thawed",
    "writer.pack-saved", "live.read", "live.ended", "writer.before-snapshot", "writer.snapshot-saved",
    "backup.reread", "backup.committed", "live.forgiven",
)  # fmt: skip


@dataclass
class Robustness:
    """The guest, what is known of its restore points, and one method for each thing that can happen."""

    chance: random.Random
    host: Host
    guest: LiveGuest
    admin: Admin
    say: Callable[[str], None]
    scratch: Path
    contents: dict[str, Mapping[str, str]] = field(default_factory=dict)
    files: list[tuple[str, str]] = field(default_factory=list)
    growths: int = 0
    steps: int = 0

    def step(self) -> None:
        """Something happens. Raises AssertionError or LabError when something is not as it must be."""
        happening = self.chance.choice(HAPPENINGS)
        self.steps += 1
        self.say(f"{self.steps}: {happening.__name__}")
        happening(self)

    def let_it_write(self) -> None:
        """The writer and the database go on."""
        for writer in ("vda", DATABASE):
            self.guest.writes_on(writer)

    def write(self) -> None:
        """A folder of files, in new blocks."""
        name, disk = f"files{self.steps}", self.chance.choice(("vda", "vdb"))
        self.guest.do(f"write:{name}:{self.chance.randint(1, LARGEST_MIB)}:{disk}")
        self.files.append((name, disk))

    def zero(self) -> None:
        """Zeros over files that are there: dirty, and zero."""
        if self.files:
            name, disk = self.chance.choice(self.files)
            self.guest.do(f"zero:{name}:{self.chance.randint(1, LARGEST_MIB)}:{disk}")

    def trim(self) -> None:
        """Files are removed and their blocks given back: dirty, and a hole."""
        if self.files:
            name, disk = self.files.pop(self.chance.randrange(len(self.files)))
            self.guest.do(f"remove:{name}:{disk}")

    def resize(self) -> None:
        """A disk and its file system grow."""
        if self.growths < MOST_GROWTHS:
            self.growths += 1
            size = virsh(self.guest.uri, "domblkinfo", self.guest.name, "vda").split("Capacity:")[1].split()[0]
            grown = int(size) + (GROWTH_MIB << 20)
            virsh(self.guest.uri, "blockresize", self.guest.name, "vda", f"{grown}B")
            self.guest.do("grow:vda")

    def snapshot(self) -> None:
        """Somebody else takes an external snapshot, and merges it again; sometimes there is a backup meanwhile."""
        uri, name = self.guest.uri, self.guest.name
        overlay = self.guest.console.with_name(f"overlay{self.steps}.qcow2")
        specs = ("--diskspec", f"vda,file={overlay}", "--diskspec", "vdb,snapshot=no")
        virsh(uri, "snapshot-create-as", name, "--disk-only", "--atomic", "--no-metadata", *specs)
        self.let_it_write()
        if self.chance.random() < 0.5:
            self.back_up()
        virsh(uri, "blockcommit", name, "vda", "--active", "--pivot", "--wait")
        overlay.unlink()

    def reboot(self) -> None:
        """An orderly shutdown; while it is off a backup, sometimes with an internal snapshot."""
        virsh(self.guest.uri, "shutdown", self.guest.name, "--mode", "agent")
        wait_until_off(self.guest.uri, self.guest.name)
        if self.chance.random() < 0.5:
            run("qemu-img", "snapshot", "-c", f"internal{self.steps}", self.guest.disks["vda"])
        self._back_up_standing()
        self._start()

    def kill_qemu(self) -> None:
        """The guest's QEMU dies; what was acknowledged must be there afterwards."""
        before = self.guest.acked()
        self.guest.signal_qemu(signal.SIGKILL)
        self._start()
        assert self.guest.acked() >= before

    def kill_donjon(self) -> None:
        """A backup is killed anywhere; `donjon settle` cleans up after it, and the guest goes on."""
        point = self.chance.choice(DEATHS)
        died = self.admin.may_die(point, *self._backup())
        self.say(f"   at {point}" if died else f"   {point} was not reached")
        self.admin.settles()
        assert list(self.scratch.iterdir()) == []
        assert not self.guest.is_frozen
        assert virsh(self.guest.uri, "domjobinfo", self.guest.name).split()[-1] == "None"
        self.let_it_write()

    def restart_libvirtd(self) -> None:
        """The daemon crashes and comes back."""
        self.host.restart_libvirtd()
        self.let_it_write()

    def back_up(self) -> None:
        """While it writes; booted from the restored disks, its writers find all they had acknowledged."""
        backup = back_up_live(self.admin, self.guest, *self._backup()[2:])
        with TemporaryDirectory(dir=self.host.images) as folder:
            found = prove(self.admin, self.guest, backup, Path(folder))
        self.say(f"   {backup.spec}: {found}")
        self._is_clean()

    def back_up_suspended(self) -> None:
        """While it is paused by somebody else; its bytes are compared."""
        virsh(self.guest.uri, "suspend", self.guest.name)
        try:
            self._back_up_standing()
        finally:
            virsh(self.guest.uri, "resume", self.guest.name)
        self.let_it_write()

    def restore_older(self) -> None:
        """A restore point of before is still what it was."""
        if self.contents:
            self._compare(self.chance.choice(list(self.contents)))

    def _back_up_standing(self) -> None:
        with TemporaryDirectory(dir=self.host.images) as folder:
            truth = self._bytes_now(Path(folder))
        spec = spec_of(self.admin.donjon(*self._backup())["backups"][0])
        self.contents[spec] = truth
        self._compare(spec)
        self._is_clean()

    def _backup(self) -> list[str]:
        return ["backup", self.guest.name, "--scratch", str(self.scratch)]

    def _bytes_now(self, folder: Path) -> Mapping[str, str]:
        """SHA-256 by target of what the disks of a guest hold that stands still, as QEMU's own tool reads them."""
        raws = {}
        for line in virsh(self.guest.uri, "domblklist", self.guest.name).splitlines():
            if len(words := line.split(maxsplit=1)) == 2:
                target, image = words
                raws[target] = folder / target
                image_format = "raw" if target == "vdb" else "qcow2"
                run("qemu-img", "convert", "-U", "-f", image_format, "-O", "raw", image, raws[target])
        return digests(raws)

    def _compare(self, spec: str) -> None:
        with TemporaryDirectory(dir=self.host.images) as folder:
            assert digests(self.admin.restored(spec, Path(folder))) == self.contents[spec], spec
        self.say(f"   {spec}: the same bytes")

    def _is_clean(self) -> None:
        assert self.admin.owed() == []
        assert list(self.scratch.iterdir()) == []
        checkpoints = virsh(self.guest.uri, "checkpoint-list", self.guest.name, "--name").split()
        assert len(checkpoints) <= 1, checkpoints
        self.admin.repository_is_sound()

    def _start(self) -> None:
        self.guest.start(*WRITERS)
        self.let_it_write()


WRITERS = ("writer:vda", "database:vda")
OFTEN = (Robustness.write, Robustness.zero, Robustness.trim, Robustness.back_up, Robustness.back_up_suspended)
HAPPENINGS = (
    *OFTEN,
    *OFTEN,
    Robustness.let_it_write,
    Robustness.resize,
    Robustness.snapshot,
    Robustness.reboot,
    Robustness.kill_qemu,
    Robustness.kill_donjon,
    Robustness.kill_donjon,
    Robustness.restart_libvirtd,
    Robustness.restore_older,
)


def perform(seed: int, goes_on: Callable[[int], bool], say: Callable[[str], None]) -> int:
    """Let things happen as long as `goes_on(steps)`; gives how many.

    Raises:
        LabUnavailableError: this machine cannot run it.
        AssertionError, LabError: something is not as it must be.
    """
    with (
        TemporaryDirectory(prefix="donjon-robustness-", dir=PLACE) as folder,
        libvirt_host() as host,
        LiveGuests(guest_kit()).running(host) as guest,
    ):
        scratch = Path(folder) / "scratch"
        scratch.mkdir()
        happening = Robustness(random.Random(seed), host, guest, make_admin(Path(folder), host.uri), say, scratch)
        guest.do(*WRITERS)
        happening.let_it_write()
        while goes_on(happening.steps):
            happening.step()
        happening.back_up()
        return happening.steps


def main() -> int:
    """As the command line says."""
    parser = argparse.ArgumentParser(prog="python -m lab.robustness", description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3)), help="(else any)")
    parser.add_argument("--minutes", type=float, default=120)
    words = parser.parse_args()
    end = time.monotonic() + 60 * words.minutes
    print(f"seed {words.seed}", flush=True)
    try:
        steps = perform(words.seed, lambda _: time.monotonic() < end, lambda line: print(line, flush=True))
    except LabUnavailableError as error:
        print(f"robustness: this machine cannot run it: {error}", file=sys.stderr)
        return 2
    except (AssertionError, LabError) as error:
        print(f"robustness: NOT RIGHT with seed {words.seed}: {error}", file=sys.stderr)
        return 1
    print(f"{steps} steps, all right")
    return 0


if __name__ == "__main__":
    sys.exit(main())
