# SPDX-License-Identifier: Apache-2.0
"""Stock restic, run on a repository; whichever versions this machine has."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.unit.repository.disks import PASSWORD

_NEWER = Path(__file__).parents[2] / ".cache" / "restic-newer" / "restic"


@cache
def version_of(binary: str) -> tuple[int, int]:
    text = subprocess.run([binary, "version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"restic (\d+)\.(\d+)", text)
    assert match, text
    return int(match[1]), int(match[2])


def binaries() -> list[str]:
    """The installed restic, and a newer one if there is one."""
    newer = os.environ.get("DONJON_NEWER_RESTIC") or (str(_NEWER) if _NEWER.exists() else None)
    return [found for found in (shutil.which("restic"), newer) if found]


@dataclass(frozen=True)
class Restic:
    """restic, to be used on the repository at `place`."""

    binary: str
    place: Path
    password: str = PASSWORD

    @property
    def version(self) -> tuple[int, int]:
        return version_of(self.binary)

    def at(self, place: Path) -> Restic:
        return Restic(self.binary, place, self.password)

    def command(self, *arguments: str | Path) -> list[str]:
        return [self.binary, "--no-cache", "-r", str(self.place), *map(str, arguments)]

    @property
    def env(self) -> dict[str, str]:
        others = {"RESTIC_PASSWORD2": PASSWORD, "RESTIC_FROM_PASSWORD": PASSWORD}
        return os.environ | {"RESTIC_PASSWORD": self.password, "RESTIC_PROGRESS_FPS": "0.1"} | others

    def run(self, *arguments: str | Path) -> bytes:
        """What it prints; it must succeed."""
        done = self.attempt(*arguments)
        assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")
        return done.stdout

    def attempt(self, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(self.command(*arguments), env=self.env, capture_output=True, timeout=120, check=False)

    def json(self, *arguments: str | Path) -> Any:
        return json.loads(self.run(*arguments, "--json"))

    def check(self) -> None:
        """The repository is sound to the last byte, without so much as a hint."""
        said = self.run("check", "--read-data").decode()
        assert "no errors were found" in said
        assert "hint" not in said.lower(), said
