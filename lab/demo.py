# SPDX-License-Identifier: Apache-2.0
"""The demo: a running guest is backed up, lost, back within seconds, and all of it proven; its host is audited.

Exit status: 0 all was proven, 1 something was not, 2 this machine cannot run it, 130 it was stopped.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from lab import LabError, LabUnavailableError
from lab.agent import do, execute, wait_for_agent
from lab.demo_audit import audit
from lab.demo_stage import BOLD, RED, Stage, Typed, in_bytes, paint
from lab.guest import create_disk, define, definition, start, wait_for
from lab.guest_kit import GuestKit, guest_kit
from lab.libvirt_host import Host, libvirt_host
from lab.programs import run
from lab.witness import acked_before_freeze, checked, wait_for_more

VM = "web01"
PLACE = "/var/tmp"  # on disk also where /tmp is in memory
DISKS = {"vda": ("vda.qcow2", "qcow2", 2048), "vdb": ("vdb.raw", "raw", 512)}
WRITER_MIB, WRITER_PAUSE_MS = 2, 50
FIRST_MIB, ARCHIVE_MIB, LATER_MIB, LAST_MIB = 32, 24, 4, 2
MUCH_LESS = 0.5
WITNESS = "/data/vda/mail.sha256"
LOST_FILE = "mail/07"


class Demo:
    """The guest, its disks and the stage; one method for each act."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.folder, self.uri = folder, uri
        self.images = folder / "images"
        self.repository, self.password = folder / "repo", folder / "password"
        self.console = folder / "console"
        programs = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
        self.environment = {
            "PATH": programs,
            "LC_ALL": "C.UTF-8",
            "LIBVIRT_DEFAULT_URI": uri,
            "DONJON_STATE_DIR": str(folder / "state"),
            "DONJON_CONFIG": "/dev/null",
        }
        self.stage = Stage(folder, self.environment)
        self.digest = ""
        self.durable = 0
        self.first: Typed

    def a_guest_works(self, kit: GuestKit) -> None:
        """Make the guest, let it boot, and write for as long as it lives."""
        stage = self.stage
        stage.act(f"{VM}, a guest like any other, runs and writes")
        self.images.mkdir()
        for file, image_format, size_mib in DISKS.values():
            create_disk(self.images / file, size_mib, image_format)
        own = GuestKit(self.images / "vmlinuz", self.images / "initrd.img")
        shutil.copyfile(kit.kernel, own.kernel)
        shutil.copyfile(kit.initramfs, own.initramfs)
        disks = {target: (self.images / file, image_format) for target, (file, image_format, _) in DISKS.items()}
        define(self.uri, definition(own, VM, disks, self.console))
        wait_for(start(self.uri, VM), "ready")
        wait_for_agent(self.uri, VM)
        stage.type("virsh list")
        self._guest_does(f"write:mail:{FIRST_MIB}:vda", f"write:archive:{ARCHIVE_MIB}:vdb")
        self._guest_does(f"writer:vda:{WRITER_MIB}:{WRITER_PAUSE_MS}", "verify")
        wait_for_more(self.console)
        stage.means(
            "A Debian kernel on two disks, qcow2 and raw. It knows the SHA-256 of each of its files, and a program in"
            " it never stops writing; it says on the console what is durable, and can tell later what was lost of it."
        )

    def first_backup(self) -> None:
        """Make a repository, and the first restore point of the running guest."""
        stage = self.stage
        stage.act("The first backup, while it runs")
        self.password.touch(mode=0o600)
        self.password.write_text(f"{secrets.token_hex(16)}\n", encoding="utf-8")
        stage.export(DONJON_REPOSITORY=self.repository, DONJON_PASSWORD_FILE=self.password)
        stage.type("donjon init")
        typed = stage.type(f"donjon backup {VM} --least filesystem")
        self.first = typed
        stage.means(
            "Its agent froze the file systems for a moment, so both disks are of one and the same instant. The guest"
            " went on writing while they were read. Definition, kernel and initrd are in the restore point, too."
        )
        stage.prove("first backup", backup_fact(typed), holds=bytes_read(typed) > 0)

    def second_backup(self) -> None:
        """The guest writes a little more; only that is read and stored."""
        stage = self.stage
        stage.act(f"{VM} writes {LATER_MIB} MiB more; the second backup reads what changed")
        self.digest = digest_in(self._guest_does(f"write:today:{LATER_MIB}:vda", "verify"))
        typed = stage.type(f"donjon backup {VM} --least filesystem --witness {WITNESS}")
        self.durable = acked_before_freeze(self.console)
        wait_for_more(self.console)
        row = typed.table()["vda"]
        owed = stage.type("donjon owed").output.strip()
        stage.type("donjon list")
        stage.means(
            f"vda: {row['read']} read: QEMU itself kept a map of what was written since. A raw disk cannot keep one:"
            " all of its data is read, and what is not new is not stored. Each restore point is whole and needs no"
            " other. `donjon owed` would list what is still to be undone in guest and host, also after kill -9:"
            " nothing is."
        )
        stage.prove(
            "second backup",
            backup_fact(typed),
            holds=bytes_read(typed, "vda") < MUCH_LESS * bytes_read(self.first, "vda"),
        )
        stage.prove("donjon owed", "nothing was left to undo", holds=not owed)

    def a_file_is_lost(self) -> None:
        """One file of the guest comes back, out of the repository."""
        stage = self.stage
        stage.act("Somebody deletes a file; nothing has to be restored to get it back")
        wanted = expected_hash(self._guest_runs("cat", WITNESS), Path(LOST_FILE).name)
        self._guest_runs("rm", f"/data/vda/{LOST_FILE}")
        stage.type(f"donjon files ls {VM}:")
        found = stage.type(f"donjon files get {VM}:/vda/{LOST_FILE} -o - | sha256sum").output.split()[0]
        stage.means("It was read out of the ext4 in the repository, by a process that can do nothing else.")
        stage.prove("one file", "as the guest had written it, says its SHA-256", holds=found == wanted)

    def disaster(self) -> None:
        """Disks, kernel and definition are gone."""
        stage = self.stage
        stage.act("The disaster")
        stage.type(f"virsh destroy {VM}")
        stage.type(f"virsh undefine {VM} --checkpoints-metadata")
        stage.type("rm -r images")
        stage.type("virsh list --all")
        stage.means(f"Nothing of {VM} is left on this host.")

    def instant_restore(self) -> None:
        """It runs from the repository, and what it has is compared with what it had."""
        stage = self.stage
        stage.act("Back within seconds: it runs from the repository")
        (self.folder / "restored").mkdir()
        typed = stage.type(f"donjon restore {VM} --instant --directory restored")
        wait_for(self.console, "ready")
        wait_for_agent(self.uri, VM)
        lines = self._guest_does("verify", "check")
        kept = checked(lines)["vda"]
        stage.means(
            f"It boots off its disks as they were in the frozen moment. {self.durable} operations were durable then, by"
            f" the guest's own word; it finds {kept.recovered}, and {kept.bad} that are wrong."
        )
        stage.prove("instant restore", f"{VM} was started after {typed.wall_s:.1f} s", holds=True)
        stage.prove(
            "its files",
            f"{files_in(lines)} files as they were written, says the guest",
            holds=digest_in(lines) == self.digest,
        )
        stage.prove(
            "its writer",
            f"{kept.recovered} operations recovered, {self.durable} were durable at the freeze, {kept.bad} bad",
            holds=kept.recovered >= self.durable > 0 and kept.bad == 0,
        )

    def finish(self) -> None:
        """Its disks come to this host while it runs; then it needs the repository no more."""
        stage = self.stage
        stage.act("Its disks come home while it runs")
        written = digest_in(self._guest_does(f"write:after:{LAST_MIB}:vda", "verify"))
        stage.type(f"donjon restore {VM} --finish")
        stage.type("mv repo gone")
        lines = self._guest_does("verify")
        stage.type("mv gone repo")
        stage.means("The repository was away, and the guest has found every file, also those it wrote meanwhile.")
        stage.prove(
            "finished", "the guest never stopped; it needs the repository no more", holds=digest_in(lines) == written
        )

    def without_donjon(self) -> None:
        """Stock restic reads the same repository."""
        stage = self.stage
        stage.act("And if there were no donjon? Any restic can read it")
        if shutil.which("restic") is None:
            stage.means("Left out: restic is not installed here (apt-get install restic).")
            return
        stage.export(RESTIC_REPOSITORY=self.repository, RESTIC_PASSWORD_FILE=self.password)
        stage.type("restic --no-cache check --read-data")
        dumped = stage.type(f"restic --no-cache dump latest /{VM}/vda/vda.raw | sha256sum").output.split()[0]
        restored = stage.type(f"donjon restore {VM} --disk vda --to - | sha256sum").output.split()
        version = run("restic", "version").split()[1]
        stage.means("The repository is in restic's format: no lock-in, and a second program to trust.")
        stage.prove(
            f"restic {version}", "checked every byte, and has the same vda, by its SHA-256", holds=dumped in restored
        )

    def drill(self) -> None:
        """The same every night, without an audience."""
        stage = self.stage
        stage.act(f"Is it sure that this works the next time? A drill beside the running {VM}")
        typed = stage.type(f"donjon drill {VM} --directory . --check-script '/init verify | grep verified'")
        left = stage.type("virsh list --all --name").output.split()
        stage.type("donjon status")
        stage.means(
            "The restore point ran as a guest of its own, without a network to reach anybody by; its agent answered,"
            " the witness of the backup was there, a script of ours found its files. It is gone again."
        )
        stage.prove("drill", f"passed in {typed.wall_s:.0f} s; nothing of its guest is left", holds=left == [VM])

    def audit(self, host: Host) -> None:
        """What the other half of donjon says of the host."""
        if os.geteuid() == 0:
            audit(self.stage, host, self.folder)
        else:
            self.stage.act("And the host itself?")
            self.stage.means("Left out: looking at a whole host, and fixing it, needs root.")

    @contextmanager
    def cleaned_up(self) -> Iterator[None]:
        """What an interrupted act leaves running goes, too."""
        try:
            yield
        finally:
            access = {"DONJON_REPOSITORY": str(self.repository), "DONJON_PASSWORD_FILE": str(self.password)}
            for words in (["settle"], ["restore", VM, "--discard"]):
                subprocess.run(
                    ["donjon", *words],
                    env={**os.environ, **self.environment, **access},
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    check=False,
                )

    def _guest_does(self, *jobs: str) -> list[str]:
        lines = do(self.uri, VM, *jobs)
        self.stage.guest_says(lines)
        return lines

    def _guest_runs(self, program: str, *words: str) -> str:
        self.stage.guest_says([f"# {program} {' '.join(words)}"])
        return execute(self.uri, VM, f"/bin/{program}", *words).stdout


def play(folder: Path, host: Host) -> None:
    """All acts. Raises LabError when something is not as the demo says."""
    begun_s = time.monotonic()
    print(
        f"{paint('donjon: a running guest is backed up, lost, and brought back', BOLD)}\n\n"
        f"  in     {folder}\n"
        f"  with   a libvirt of its own ({'system' if os.geteuid() == 0 else 'session, no root needed'}); "
        "this machine's own is not touched",
        flush=True,
    )
    kit = guest_kit()
    demo = Demo(folder, host.uri)
    with demo.cleaned_up():
        demo.a_guest_works(kit)
        demo.first_backup()
        demo.second_backup()
        demo.a_file_is_lost()
        demo.disaster()
        demo.instant_restore()
        demo.finish()
        demo.without_donjon()
        demo.drill()
        demo.audit(host)
    demo.stage.close(time.monotonic() - begun_s)


def main() -> int:
    """Play the demo, and clean up whatever happens."""
    try:
        with ExitStack() as held:
            folder = held.enter_context(TemporaryDirectory(prefix="donjon-demo-", dir=PLACE))
            host = held.enter_context(libvirt_host())
            held.callback(signal.signal, signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not stop the cleaning up
            play(Path(folder), host)
    except KeyboardInterrupt:
        return complain("stopped; all of it was removed again", 130)
    except SystemExit as stop:
        return complain("stopped; all of it was removed again", int(stop.code or 0))
    except LabUnavailableError as error:
        return complain(f"this machine cannot run the demo: {error}", 2)
    except LabError as error:
        return complain(f"NOT PROVEN: {error}", 1)
    return 0


def complain(sentence: str, status: int) -> int:
    """Say why the demo ends."""
    print(f"\n{paint(f'demo: {sentence}', RED)}", file=sys.stderr, flush=True)
    return status


def bytes_read(backup: Typed, *targets: str) -> int:
    """Of these disks, or of all, as the backup says."""
    return sum(in_bytes(row["read"]) for target, row in backup.table().items() if target in (targets or DISKS))


def backup_fact(backup: Typed) -> str:
    """A backup in a line."""
    stored, frozen = backup.find(r"(\S+ \S+) stored for"), backup.find(r"frozen for (\S+ s)")
    read = ", ".join(f"{target} {row['read']}" for target, row in backup.table().items())
    return f"read: {read}; {stored} stored, guest frozen for {frozen}, {backup.wall_s:.1f} s"


def digest_in(lines: list[str]) -> str:
    """The guest's digest of all its files. Raises LabError if it says none."""
    return _said(r"^verified .* digest (\w+)", lines)


def files_in(lines: list[str]) -> int:
    """How many files the guest has verified. Raises LabError if it says none."""
    return int(_said(r"^verified (\d+) files", lines))


def _said(pattern: str, lines: list[str]) -> str:
    for line in lines:
        if found := re.search(pattern, line):
            return found[1]
    raise LabError(f"the guest verified nothing, but said {lines}")


def expected_hash(sums: str, name: str) -> str:
    """Of a file, in what sha256sum has written. Raises LabError if it is not there."""
    if found := re.search(rf"^([0-9a-f]{{64}}) [ *]{re.escape(name)}$", sums, re.MULTILINE):
        return found[1]
    raise LabError(f"no hash of {name} in {sums!r}")


if __name__ == "__main__":
    sys.exit(main())
