# SPDX-License-Identifier: Apache-2.0
"""An administrator: types real donjon commands, looks after a guest, and believes only the bytes of its disks."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from donjon.repository.format.keyfile import Scrypt
from donjon.repository.repository import Repository
from donjon.repository.stores.local import LocalStore
from lab.guest import run_jobs, start, virsh, wait_for
from lab.programs import run

BLOCK_SIZE = 512 << 10
TIMEOUT_S = 120
DONJON = Path(sys.executable).with_name("donjon")
DYING = """
import os, signal, sys
from donjon import trace
from donjon.cli.main import main

def listen(point):
    if point == sys.argv[1]:
        os.kill(os.getpid(), signal.SIGKILL)

with trace.listening(listen):
    sys.exit(main(sys.argv[2:]))
"""


@dataclass(frozen=True)
class Guest:
    """A VM on a libvirt host; `disks` are its images by target."""

    uri: str
    name: str
    disks: Mapping[str, Path]

    def run(self, *jobs: str) -> list[str]:
        """Boot it, let it do the jobs and switch itself off."""
        return run_jobs(self.uri, self.name, *jobs)

    def boot(self) -> None:
        """Boot it, and leave it idle; its disks do not change then."""
        wait_for(start(self.uri, self.name), "ready")

    @property
    def state(self) -> str:
        """As virsh says it: "running", "paused", "shut off"."""
        return virsh(self.uri, "domstate", self.name).strip()

    @property
    def xml(self) -> str:
        """Its definition."""
        return virsh(self.uri, "dumpxml", "--inactive", self.name)

    def contents(self) -> dict[str, Path]:
        """Raw copies of what its disks hold now, made by QEMU itself."""
        return {target: content(image) for target, image in self.disks.items()}

    def remove(self) -> None:
        """Nothing of it is left in the host, but its files."""
        if self.state != "shut off":
            virsh(self.uri, "destroy", self.name)
        virsh(self.uri, "undefine", self.name, "--nvram", "--checkpoints-metadata", "--snapshots-metadata")


@dataclass(frozen=True)
class Admin:
    """Somebody who types commands, with a repository and a ledger of their own in `folder`."""

    folder: Path
    environment: Mapping[str, str]
    before: Sequence[str] = field(default=())

    @property
    def repository(self) -> Path:
        return self.folder / "repo"

    def donjon(self, *words: str | Path, exit_code: int = 0) -> Any:
        """Run the command with --json; gives what it says."""
        done = self._run([DONJON, *words, "--json"])
        assert done.returncode == exit_code, (words, done.returncode, done.stdout, done.stderr)
        return json.loads(done.stdout)

    def dies(self, point: str, *words: str | Path) -> None:
        """Run the command, and kill -9 it when it reaches a point of the program."""
        done = self._run([sys.executable, "-c", DYING, point, *words])
        assert done.returncode == -signal.SIGKILL, (words, f"{point} was not reached", done.stdout, done.stderr)

    def may_die(self, point: str, *words: str | Path) -> bool:
        """As `dies`, of a point that is not always reached: then the command must succeed. Whether it died."""
        done = self._run([sys.executable, "-c", DYING, point, *words])
        assert done.returncode in {0, -signal.SIGKILL}, (words, point, done.stdout, done.stderr)
        return done.returncode != 0

    def settles(self) -> list[Any]:
        """Let donjon undo what an interrupted run left behind; gives what was undone."""
        settled = self.donjon("settle")
        assert settled["left"] == []
        assert self.owed() == []
        return list(settled["undone"])

    def owed(self) -> list[Any]:
        """What donjon has still to undo."""
        return list(self.donjon("owed")["debts"])

    def repository_is_sound(self) -> None:
        """Says stock restic, which has read every byte; locks of the dead are removed before."""
        self.donjon("unlock")
        if shutil.which("restic") is None:
            assert self.donjon("check", "--read-data")
            return
        done = self._run(["restic", "--no-cache", "-q", "check", "--read-data"])
        assert done.returncode == 0, (done.stdout, done.stderr)

    def restored(self, spec: str, folder: Path) -> dict[str, Path]:
        """Raw contents of all disks of a restore point, restored as files."""
        report = self.donjon("restore", spec, "--to-dir", folder)
        return {disk["target"]: content(Path(disk["path"])) for disk in report["disks"]}

    def _run(self, argv: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.before, *map(str, argv)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            env={**os.environ, **self.environment},
        )


def make_admin(folder: Path, uri: str, repository: Path | None = None, **environment: str) -> Admin:
    """An administrator with a new, empty repository, which opens faster than those of `donjon init`."""
    password = folder / "password"
    password.touch(mode=0o600)
    password.write_text("correct horse\n", encoding="utf-8")
    place = str(repository or folder / "repo")
    Repository.create(LocalStore(Path(place)), "correct horse", scrypt=Scrypt(n=2, r=1, p=1))
    return Admin(
        folder,
        {
            "DONJON_REPOSITORY": place,
            "DONJON_PASSWORD_FILE": str(password),
            "DONJON_STATE_DIR": str(folder / "state"),
            "DONJON_CONFIG": os.devnull,
            "LIBVIRT_DEFAULT_URI": uri,
            "RESTIC_REPOSITORY": place,
            "RESTIC_PASSWORD_FILE": str(password),
            **environment,
        },
    )


def content(image: Path) -> Path:
    """A raw copy of what a disk image holds, next to it."""
    raw = image.with_name(f"{image.name}.{len(list(image.parent.iterdir()))}.content")
    run("qemu-img", "convert", "-O", "raw", *(["-f", "raw"] if image.suffix == ".raw" else []), image, raw)
    return raw


def digests(contents: Mapping[str, Path]) -> dict[str, str]:
    """SHA-256 of each."""
    found = {}
    for target, path in contents.items():
        with path.open("rb") as file:
            found[target] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def changed_blocks(before: Path, after: Path) -> tuple[int, int]:
    """How many blocks of donjon's have changed to some data, and how many to zeros."""
    now = _blocks(after)
    changed = (_blocks(before) != now).any(axis=1)
    holds_data = now.any(axis=1)
    return int((changed & holds_data).sum()), int((changed & ~holds_data).sum())


def _blocks(raw: Path) -> np.ndarray[Any, np.dtype[np.uint64]]:
    return np.fromfile(raw, dtype=np.uint64).reshape(-1, BLOCK_SIZE // 8)
