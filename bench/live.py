# SPDX-License-Identifier: Apache-2.0
"""Measures donjon against virtnbdbackup on one running guest, and what else matters of live backup; `--help`."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import live_report
from live_files import measure_file_restore
from live_guest import make_disk, running_guest, running_host
from live_instant import measure_instant
from live_rounds import Live, live_round, start_writing
from measure import BenchError
from nbd import measure_nbd
from peers import Place
from rounds import Bench

from lab import LabError

ROOT = Path(__file__).resolve().parent.parent
SEED = 1
CONTENT = "content"


def main() -> int:
    options = parse(sys.argv[1:])
    if missing := [name for name in ("virtnbdbackup", "gcc", "nbdinfo") if shutil.which(name) is None]:
        print(f"bench: cannot measure without {', '.join(missing)}: not installed", file=sys.stderr)
        return 1
    load = os.getloadavg()[0]
    options.workdir.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="live-", dir=options.workdir.resolve()) as folder:
            bench = Bench(Place(Path(folder), options.donjon.absolute()), Path(sys.executable).absolute())
            measure(bench, options)
    except (BenchError, LabError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    machine = {
        "date": datetime.now(UTC).date().isoformat(),
        **live_report.describe_machine(options.gib, options.rounds, options.donjon),
        "load before": f"{load:.1f}",
    }
    figures = live_report.render(bench.samples, machine)
    print(figures)
    if not options.smoke:
        live_report.write_down(figures, bench.samples, machine)
    return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/live.py", description=__doc__)
    parser.add_argument("--gib", type=float, default=1.5, help="data of the guest (default: 1.5)")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--smoke", action="store_true", help="128 MiB, one round; nothing is recorded")
    parser.add_argument("--donjon", type=Path, default=ROOT / ".venv/bin/donjon")
    parser.add_argument("--workdir", type=Path, default=ROOT / ".cache/bench", help="needs 10 GB, and as much in /tmp")
    options = parser.parse_args(argv)
    if options.smoke:
        options.gib, options.rounds = 0.125, 1
    return options


def measure(bench: Bench, options: argparse.Namespace) -> None:
    """Everything, one thing after the other.

    Raises:
        BenchError: something failed, or gave a wrong result.
        LabError: the guest did not do what it was told.
    """
    image = bench.place.image
    bench.helper("image.py", "create", image, "--gib", options.gib, "--seed", SEED)
    with running_host() as (host, kit):
        content = host.images / CONTENT
        content.mkdir()
        shutil.copyfile(image, content / "data")
        disk = host.images / "disk.qcow2"
        make_disk(disk, int(options.gib * 1024) + 512, content)
        shutil.rmtree(content)
        with running_guest(host, kit, disk) as guest:
            live = Live(bench, guest)
            start_writing(guest)
            for number in range(options.rounds):
                live_round(live, number)
            measure_instant(live, options.rounds)
    measure_file_restore(bench, options.rounds)
    measure_nbd(bench, options.rounds)


if __name__ == "__main__":
    raise SystemExit(main())
