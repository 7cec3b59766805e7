# SPDX-License-Identifier: Apache-2.0
"""A newer restic than the system's, from Debian 13's package, unpacked beside it for the interoperability tests."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from lab import CACHE, LabError
from lab.debian import archive_of
from lab.programs import run

SUITE = "trixie"
FOLDER = CACHE / "restic-newer"


def newer_restic() -> Path:
    """The program, fetched once and kept. Raises LabError if it cannot be had."""
    program = FOLDER / "restic"
    if not program.exists():
        unpacked = FOLDER / "unpacked"
        archive_of(SUITE, FOLDER / "apt").unpack(["restic"], unpacked)
        run(unpacked / "usr/bin/restic", "version")
        (unpacked / "usr/bin/restic").rename(program)
        shutil.rmtree(unpacked)
        shutil.rmtree(FOLDER / "apt")
    return program


def main() -> int:
    """Print where the program is; exit status 1 when it cannot be had."""
    try:
        print(newer_restic())
    except (LabError, OSError) as error:
        print(f"no newer restic: {error}; the tests use the system's own only", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
