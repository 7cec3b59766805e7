# SPDX-License-Identifier: Apache-2.0
"""donjon and virtnbdbackup, told to do the same things with a running guest."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from live_guest import NAME, BenchGuest, words_of
from measure import Command

from donjon.repository.format.keyfile import Scrypt
from donjon.repository.repository import Repository
from donjon.repository.stores.local import LocalStore

PASSWORD = "bench"
LONGEST_S = 180.0
POLL_S = 0.0005


class Tool(Protocol):
    """A tool that backs up the guest, with all it keeps below `home` and scratch files in `scratch`."""

    name: ClassVar[str]
    home: Path
    scratch: Path

    @property
    def kept(self) -> Path:
        """The folder that is the backup."""
        ...

    def prepare(self) -> None: ...
    def backup(self) -> Command: ...
    def restore(self, to: Path) -> Command: ...

    def restored(self, to: Path) -> dict[str, Path]:
        """Images by target."""
        ...

    def leftovers(self, guest: BenchGuest) -> list[str]: ...

    def has_begun(self) -> bool:
        """The hypervisor serves a backup."""
        ...

    def has_recorded(self) -> bool:
        """The tool has written down for its next run that there is this one, or is about to read."""
        ...

    def is_reading(self) -> bool:
        """Data have arrived."""
        ...

    def pieces(self) -> set[Path]:
        """Files that hold data of the guest's disks."""
        ...


@dataclass
class Donjon:
    """donjon, with a repository whose key is quick to derive."""

    guest: BenchGuest
    home: Path
    scratch: Path
    program: Path
    name: ClassVar[str] = "donjon"
    before: set[Path] = field(default_factory=set)

    @property
    def kept(self) -> Path:
        return self.home / "repo"

    def prepare(self) -> None:
        self.home.mkdir()
        self.scratch.mkdir(parents=True, exist_ok=True)
        Repository.create(LocalStore(self.kept), PASSWORD, scrypt=Scrypt(n=2, r=1, p=1))

    def command(self, *words: str | Path) -> Command:
        environment = {
            "DONJON_PASSWORD": PASSWORD,
            "DONJON_STATE_DIR": str(self.home / "state"),
            "DONJON_REPOSITORY": str(self.kept),
            "DONJON_CONFIG": os.devnull,
            "LIBVIRT_DEFAULT_URI": self.guest.uri,
        }
        return Command([*self.guest.inside, str(self.program), *words_of(words)], environment)

    def backup(self) -> Command:
        self.before = self.pieces()
        options: list[str | Path] = ["--scratch", self.scratch, "--least-free-scratch", "8"]
        return self.command("backup", NAME, *options, "--json")

    def restore(self, to: Path) -> Command:
        return self.command("restore", NAME, "--to-dir", to, "--json")

    def restored(self, to: Path) -> dict[str, Path]:
        return {path.stem.rpartition("-")[2]: path for path in to.iterdir() if path.suffix in {".qcow2", ".raw"}}

    def leftovers(self, guest: BenchGuest) -> list[str]:
        owed = run_tool(self.command("owed", "--json"))
        debts = json.loads(owed.said).get("debts", []) if owed.code == 0 else ["?"]
        return [*(["debts"] if debts else []), *_left(guest, self.scratch)]

    def has_begun(self) -> bool:
        return any(self.scratch.glob("*/nbd"))

    def has_recorded(self) -> bool:
        return self.is_reading()

    def is_reading(self) -> bool:
        return bool(self.pieces() - self.before)

    def pieces(self) -> set[Path]:
        return {path for path in (self.kept / "data").rglob("*") if path.is_file() and len(path.name) == 64}


@dataclass
class Virtnbdbackup:
    """virtnbdbackup: a full backup first, increments after that, with its default options."""

    guest: BenchGuest
    home: Path
    scratch: Path
    options: tuple[str, ...] = ()
    name: ClassVar[str] = "virtnbdbackup"
    before: set[Path] = field(default_factory=set)
    listed: float = 0.0

    @property
    def kept(self) -> Path:
        return self.home / "backup"

    @property
    def socket(self) -> Path:
        return self.home / "nbd"

    def prepare(self) -> None:
        self.home.mkdir()
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.kept.mkdir()

    def backup(self) -> Command:
        self.before, self.listed = self.pieces(), self._list_time()
        level = "inc" if any(self.kept.glob("*.full.data")) else "full"
        options: list[str | Path] = [
            "-l",
            level,
            "-o",
            self.kept,
            "-S",
            self.scratch,
            "-f",
            self.socket,
            "-n",
            *self.options,
        ]
        return self._command("virtnbdbackup", "-d", NAME, *options)

    def restore(self, to: Path) -> Command:
        options: list[str | Path] = [
            "-i",
            self.kept,
            "-o",
            to,
            "-n",
            "-f",
            self.home / "restore",
            "-L",
            self.home / "restore.log",
        ]
        return self._command("virtnbdrestore", *options)

    def restored(self, to: Path) -> dict[str, Path]:
        """It names them as they were; a disk it restored from increments only is called like its target."""
        images = {path.stem: path for path in to.iterdir() if path.suffix == ".qcow2"} if to.is_dir() else {}
        unnamed = {path.name: path for path in to.iterdir() if path.name in {"vda", "vdb"}} if to.is_dir() else {}
        return {**unnamed, **images}

    def leftovers(self, guest: BenchGuest) -> list[str]:
        return _left(guest, self.scratch)

    def has_begun(self) -> bool:
        return self.socket.exists()

    def has_recorded(self) -> bool:
        return self._list_time() != self.listed

    def is_reading(self) -> bool:
        return bool(self.pieces() - self.before)

    def pieces(self) -> set[Path]:
        return {path for path in self.kept.iterdir() if path.name.endswith((".data", ".data.partial"))}

    def _list_time(self) -> float:
        path = self.kept / f"{NAME}.cpt"
        return path.stat().st_mtime if path.exists() else 0.0

    def _command(self, *words: str | Path) -> Command:
        return Command([*self.guest.inside, *words_of(words)], {"PYTHONNOUSERSITE": "1"})


def _left(guest: BenchGuest, scratch: Path) -> list[str]:
    """What there is on the host while no backup is made, in words."""
    left = []
    if guest.has_job():
        left.append("backup job in QEMU")
    if scratch.is_dir() and any(scratch.iterdir()):
        left.append("scratch file")
    return left


@dataclass(frozen=True)
class Outcome:
    """How a tool ended: its exit code, negative after a signal; and all it said."""

    code: int
    said: str


Moment = Callable[[], bool]


def run_tool(
    command: Command, *, when: Moment | None = None, signals: Mapping[signal.Signals, Moment] | None = None
) -> Outcome:
    """Run it to its end; with `when`, send the signals in turn, the first at that moment, each next at its own."""
    process = subprocess.Popen(
        command.argv,
        env={**os.environ, "LC_ALL": "C.UTF-8", "PATH": f"/usr/sbin:/sbin:{os.environ['PATH']}", **command.environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        moment = when
        for number, following in (signals or {}).items():
            while moment and process.poll() is None and not moment():
                time.sleep(POLL_S)
            if process.poll() is None:
                os.killpg(process.pid, number)
            moment = following
        said, _ = process.communicate(timeout=LONGEST_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said = process.communicate()[0] + "\nstill running after some minutes: killed"
    return Outcome(process.returncode, said)


def copy_without_times(source: Path, target: Path) -> None:
    """As a copy by a program that keeps no times, the newest file first."""
    files = sorted((path for path in source.rglob("*") if path.is_file()), key=lambda path: -path.stat().st_mtime_ns)
    for path in files:
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        time.sleep(0.01)
