# SPDX-License-Identifier: Apache-2.0
"""One file out of a sparse disk of 100 GiB, and what donjon needs of memory to back such a disk up."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from pathlib import Path

from live_guest import words_of
from measure import BenchError, Command
from peers import PASSWORD
from rounds import Bench, Sample, fresh_folder
from sparse import same_content

from lab.programs import run

BACKUP, GET = "100 GiB sparse, backup", "one file of it"
SIZE_GIB = 100
WANTED = Path("etc/app/settings")
FILES, FILE_SIZE = 400, 256 << 10


def measure_file_restore(bench: Bench, rounds: int) -> None:
    """Back the disk up, and take one file from it.

    Raises:
        BenchError: it failed, or the file is not what it was.
    """
    folder = bench.place.folder / "files"
    with fresh_folder(folder):
        disk, content = folder / "disk.raw", folder / "content"
        make_content(content)
        options = ["-q", "-t", "ext4", "-E", "lazy_itable_init=1,lazy_journal_init=1", "-d", str(content)]
        run("mke2fs", *options, disk, f"{SIZE_GIB}G", timeout_s=300)
        repository = folder / "repo"
        environment = {"DONJON_PASSWORD": PASSWORD, "DONJON_STATE_DIR": str(folder / "state")}

        def command(*words: str | Path) -> Command:
            return Command(words_of([bench.place.donjon, *words, "-r", repository]), environment)

        bench.measure(command("init"), disk)
        cost = bench.measure(command("backup", "big", "--disk", f"vda={disk}"), content)
        bench.add(Sample(0, "donjon", BACKUP, **asdict(cost)))
        for number in range(rounds):
            target = folder / f"out-{number}"
            cost = bench.measure(command("files", "get", f"big:/{WANTED}", "--to", target), repository)
            bench.add(Sample(number, "donjon", GET, **asdict(cost)))
            if not same_content(target / WANTED.name, content / WANTED):
                raise BenchError("donjon gave back another file")
        shutil.rmtree(content)


def make_content(folder: Path) -> None:
    """Some files of noise, and the one that is wanted."""
    for path in [folder / WANTED, *(folder / f"srv/{number}" for number in range(FILES))]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(FILE_SIZE))
