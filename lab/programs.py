# SPDX-License-Identifier: Apache-2.0
"""How the lab runs other programs: to their end, within a time, and with their words in the error."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from lab import LabError, LabUnavailableError

# Where Debian keeps programs for administrators; not on an ordinary user's PATH.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def run(*argv: str | Path | int, timeout_s: float = 60, folder: Path | None = None, stdin: str = "") -> str:
    """What the program writes to its standard output.

    Raises:
        LabError: it cannot be run, fails, or takes too long.
    """
    command = [str(word) for word in argv]
    environment = {**os.environ, "PATH": SEARCH_PATH, "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            cwd=folder,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabError(f"cannot run {command[0]}: {error}") from error
    if done.returncode != 0:
        reason = done.stderr.strip() or f"exit status {done.returncode}"
        raise LabError(f"{' '.join(command[:3])} failed: {reason}")
    return done.stdout


def require(programs: Mapping[str, str]) -> None:
    """Make sure that programs are there; `programs` maps each to the Debian package that has it.

    Raises:
        LabUnavailableError: some are not; names the packages.
    """
    missing = {package for program, package in programs.items() if not _is_there(program)}
    if missing:
        raise LabUnavailableError(f"missing Debian packages: {_listed(missing)}")


def _is_there(program: str) -> bool:
    return shutil.which(program, path=SEARCH_PATH) is not None


def _listed(names: Iterable[str]) -> str:
    return " ".join(sorted(names))
