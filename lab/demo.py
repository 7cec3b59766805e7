# SPDX-License-Identifier: Apache-2.0
"""The demo: a real guest is backed up, lost, restored and booted; ends with what that has proven.

Exit status: 0 all was proven, 1 something was not, 2 this machine cannot run it, 130 it was stopped.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from lab import LabError, LabUnavailableError
from lab.demo_stage import BOLD, RED, Stage, Typed, in_bytes, paint
from lab.guest import create_disk, define, definition, run_jobs, said, start, virsh, wait_for
from lab.guest_kit import GuestKit, guest_kit
from lab.libvirt_host import private_libvirt
from lab.programs import run

VM = "web01"
PLACE = "/var/tmp"  # on disk also where /tmp is in memory
DISKS = {"vda": ("vda.qcow2", "qcow2", 2048), "vdb": ("vdb.raw", "raw", 512)}
# donjon only trusts the time stamp of a file that was left alone for two seconds before.
SETTLED_S = 2.5
MUCH_LESS = 0.25
FIRST_MIB, ARCHIVE_MIB, LATER_MIB, LAST_MIB = 32, 24, 4, 2


class Demo:
    """The guest, its disks and the stage; one method for each act."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.folder, self.uri = folder, uri
        self.images = folder / "images"
        self.restored = folder / "restored"
        programs = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
        self.stage = Stage(
            folder,
            {
                "PATH": programs,
                "LC_ALL": "C.UTF-8",
                "LIBVIRT_DEFAULT_URI": uri,
                "DONJON_STATE_DIR": str(folder / "state"),
                "DONJON_CONFIG": "/dev/null",
            },
        )
        self.digest = ""
        self.first_read = 0

    def a_guest_works(self, kit: GuestKit) -> None:
        """Make the guest, let it boot and write."""
        stage = self.stage
        stage.act(f"{VM}, a guest like any other, writes its data")
        self.images.mkdir()
        for file, image_format, size_mib in DISKS.values():
            create_disk(self.images / file, size_mib, image_format)
        own = GuestKit(self.images / "vmlinuz", self.images / "initrd.img")
        shutil.copyfile(kit.kernel, own.kernel)
        shutil.copyfile(kit.initramfs, own.initramfs)
        disks = {target: (self.images / file, image_format) for target, (file, image_format, _) in DISKS.items()}
        define(self.uri, definition(own, VM, disks, self.folder / "console"))
        stage.type("virsh list --all")
        stage.guest_says(
            run_jobs(self.uri, VM, f"write:mail:{FIRST_MIB}:vda", f"write:archive:{ARCHIVE_MIB}:vdb", "verify")
        )
        stage.type("ls -s --block-size=M images")
        time.sleep(SETTLED_S)
        stage.means(
            "A Debian kernel on two disks, qcow2 and raw; it wrote files and knows the SHA-256 of each. It is off now."
        )

    def first_backup(self) -> None:
        """Make a repository, and the first restore point."""
        stage = self.stage
        stage.act("The first backup")
        password = self.folder / "password"
        password.touch(mode=0o600)
        password.write_text(f"{secrets.token_hex(16)}\n", encoding="utf-8")
        stage.export(DONJON_REPOSITORY=self.folder / "repo", DONJON_PASSWORD_FILE=password)
        stage.type("donjon init")
        typed = stage.type(f"donjon backup {VM}")
        self.first_read = bytes_read(typed)
        stage.means(
            "Holes are not read. Disks, definition, kernel and initrd: all of it is in one encrypted restore point."
        )
        stage.prove("first backup", f"{backup_fact(typed)}, kernel and initrd included", holds=self.first_read > 0)

    def second_backup(self) -> None:
        """The guest writes a little more; only that is read and stored."""
        stage = self.stage
        stage.act(f"{VM} writes {LATER_MIB} MiB more; the second backup reads only what changed")
        stage.guest_says(run_jobs(self.uri, VM, f"write:today:{LATER_MIB}:vda", "verify"))
        typed = stage.type(f"donjon backup {VM}")
        rows = typed.table()
        stage.means(
            f"vda: {rows['vda']['read']} read, because the image itself knows what was written since."
            f" vdb: {rows['vdb']['read']} read, its file is untouched. And yet the restore point is whole."
        )
        stage.prove("second backup", backup_fact(typed), holds=bytes_read(typed) < MUCH_LESS * self.first_read)

    def backup_of_a_running_guest(self) -> None:
        """Refused without leave; with it, the guest runs again afterwards."""
        stage = self.stage
        stage.act(f"{VM} is running: donjon asks first, and leaves it as it was")
        console = start(self.uri, VM, f"write:cart:{LAST_MIB}:vda", "verify")
        wait_for(console, "verified")
        lines = said(console)
        stage.guest_says(lines)
        self.digest = digest_in(lines)
        self._forget_jobs()
        stage.type(f"donjon backup {VM}", exit_code=1)
        typed = stage.type(f"donjon backup {VM} --shutdown")
        state = stage.type(f"virsh domstate {VM}").output.strip()
        owed = stage.type("donjon owed").output.strip()
        wait_for(console, "ready")
        off = typed.find(r"held still for (.*?),")
        stage.means(
            "It was shut down in order, backed up and started again. `donjon owed` would list what is still to be"
            " undone, also after a crash or kill -9 in the middle: nothing is."
        )
        stage.prove(
            "running guest", f"shut down, its disks held still for {off}, running again", holds=state == "running"
        )
        stage.prove("donjon owed", "nothing was left to undo", holds=not owed)

    def look_around(self) -> None:
        """What the repository holds."""
        stage = self.stage
        stage.act("What is there")
        points = stage.type("donjon list").table()
        stage.type(f"donjon show {VM}")
        stage.type(f"donjon diff {VM}@{next(iter(points))} {VM}")
        stage.means("Every restore point stands alone: none needs another one, and any can be deleted.")
        stage.prove(
            "repository",
            f"{len(points)} restore points in {files_in(self.folder / 'repo') >> 20} MiB",
            holds=len(points) == 3,
        )

    def disaster(self) -> None:
        """Disks, kernel and definition are gone."""
        stage = self.stage
        stage.act("The disaster")
        stage.type(f"virsh destroy {VM}")
        kept = self.folder / "kept-aside"
        run("cp", "-r", "--sparse=always", self.images, kept)
        stage.type(f"virsh undefine {VM}")
        stage.type("rm -r images")
        stage.type("virsh list --all")
        stage.means(f"Nothing of {VM} is left. (The demo has put a copy of the disks aside, only to compare.)")

    def restore(self) -> None:
        """Restore, compare from outside, boot, verify from inside."""
        stage = self.stage
        stage.act("One command brings it back")
        typed = stage.type(f"donjon restore {VM} --directory restored")
        identical = [
            stage.type(f"qemu-img compare kept-aside/{file} restored/{VM}-{target}.{image_format}").output
            for target, (file, image_format, _) in DISKS.items()
        ]
        lines = run_jobs(self.uri, VM, "verify")
        stage.guest_says(lines)
        stage.means(
            "From outside, the disks are what they were, byte for byte. From inside, the guest has found every file"
            " it ever wrote, with the SHA-256 it had."
        )
        same = all("Images are identical" in output for output in identical)
        stage.prove("restored", f"both disks, byte for byte as they were, in {typed.wall_s:.1f} s", holds=same)
        files = found[1] if (found := re.search(r"verified (\d+) files", " ".join(lines))) else "no"
        stage.prove(
            "booted", f"{files} files as they were written, says the guest", holds=digest_in(lines) == self.digest
        )

    def without_donjon(self) -> None:
        """Stock restic reads the same repository."""
        stage = self.stage
        stage.act("And if there were no donjon? Any restic can read it")
        if shutil.which("restic") is None:
            stage.means("Left out: restic is not installed here (apt-get install restic).")
            return
        stage.export(RESTIC_REPOSITORY=self.folder / "repo", RESTIC_PASSWORD_FILE=self.folder / "password")
        stage.type("restic --no-cache snapshots --compact")
        stage.type("restic --no-cache check --read-data")
        dumped = stage.type(f"restic --no-cache dump latest /{VM}/vda/vda.raw | sha256sum").output.split()[0]
        lost = sha256_of_content(self.folder / "kept-aside" / DISKS["vda"][0], self.folder / "vda.content")
        version = run("restic", "version").split()[1]
        stage.means("The repository is in restic's format: no lock-in, and a second program to trust.")
        stage.prove(
            f"restic {version}",
            "checked every byte; the vda it dumps has the SHA-256 of the lost one",
            holds=dumped == lost,
        )

    def _forget_jobs(self) -> None:
        """At its next start the guest writes nothing."""
        xml = virsh(self.uri, "dumpxml", "--inactive", VM)
        define(self.uri, re.sub(r"donjon\.job=[^\s<]*", "donjon.job=", xml))


def play(folder: Path, uri: str) -> None:
    """All acts. Raises LabError when something is not as the demo says."""
    begun_s = time.monotonic()
    print(
        f"{paint('donjon: a real guest is backed up, lost, and brought back', BOLD)}\n\n"
        f"  in     {folder}\n"
        f"  with   a libvirt of its own ({'system' if os.geteuid() == 0 else 'session, no root needed'}); "
        "this machine's own is not touched",
        flush=True,
    )
    kit = guest_kit()
    demo = Demo(folder, uri)
    demo.a_guest_works(kit)
    demo.first_backup()
    demo.second_backup()
    demo.backup_of_a_running_guest()
    demo.look_around()
    demo.disaster()
    demo.restore()
    demo.without_donjon()
    demo.stage.close(time.monotonic() - begun_s)


def main() -> int:
    """Play the demo, and clean up whatever happens."""
    try:
        with ExitStack() as held:
            folder = held.enter_context(TemporaryDirectory(prefix="donjon-demo-", dir=PLACE))
            uri = held.enter_context(private_libvirt())
            held.callback(signal.signal, signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not stop the cleaning up
            play(Path(folder), uri)
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


def bytes_read(backup: Typed) -> int:
    """Of all disks, as the backup says."""
    return sum(in_bytes(row["read"]) for row in backup.table().values())


def backup_fact(backup: Typed) -> str:
    """A backup in a line."""
    stored, whole = backup.find(r"(\S+ \S+) stored for"), backup.find(r"stored for (\S+ \S+),")
    read_mib = bytes_read(backup) / (1 << 20)
    return f"{read_mib:.1f} MiB of {whole} read, {stored} stored, {backup.wall_s:.1f} s"


def digest_in(lines: list[str]) -> str:
    """The guest's digest of all its files. Raises LabError if it says none."""
    for line in lines:
        if found := re.search(r"^verified .* digest (\w+)", line):
            return found[1]
    raise LabError(f"the guest verified nothing, but said {lines}")


def files_in(folder: Path) -> int:
    """Bytes in all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def sha256_of_content(image: Path, scratch: Path) -> str:
    """Of a disk image's content, whatever its format."""
    run("qemu-img", "convert", "-O", "raw", image, scratch)
    with scratch.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(main())
