# SPDX-License-Identifier: Apache-2.0
"""The benchmark's command line: generate, run the rounds, write down."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import report
from giant import measure_giant
from measure import BenchError
from nbd import measure_nbd
from peers import DEFAULT, PEERS, Peer, Place, installed, version_of
from rounds import Bench, Sample, make_image, one_round

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "RESULTS.md"
BEGIN, END = "<!-- figures: written by bench/run -->", "<!-- end of figures -->"
SPACE_PER_GIB = 25 / 6
SMOKE_GIB = 0.25
TITLES = {
    "full": "Full backup",
    "second": "Second backup, 1 % changed",
    "restore": "Restore of the full backup to a sparse file",
    "4 TiB, full": "Backup of a sparse disk of 4 TiB that holds 256 MiB",
    "4 TiB, restore": "Restore of that disk",
    "NBD client": "Reading the image from qemu-nbd",
    "NBD server": "Serving the image to nbdcopy",
}


def main() -> int:
    options = parse(sys.argv[1:])
    load = os.getloadavg()[0]
    options.workdir.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="run-", dir=options.workdir.resolve()) as folder:
            place = Place(Path(folder), options.donjon.absolute())
            bench = Bench(place, options.python.absolute())
            peers = choose(options.only, place)
            measure(bench, options, peers)
            machine = {**describe_machine(options, peers), "load before": f"{load:.1f}"}
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    figures = render(bench, machine)
    print(figures)
    if not options.smoke and not options.only:
        write_down(figures, bench, machine)
    return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run", description="Measures donjon against its peers.")
    parser.add_argument("--gib", type=float, default=6.0, help="size of the image (default: 6)")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--seed", type=int, default=1, help="of the image's content")
    parser.add_argument("--only", type=lambda text: text.split(","), help=f"of {','.join(PEERS)}; nothing is recorded")
    parser.add_argument("--smoke", action="store_true", help="256 MiB, one round; nothing is recorded")
    parser.add_argument("--donjon", type=Path, default=ROOT / ".venv/bin/donjon")
    parser.add_argument("--python", type=Path, default=ROOT / ".venv/bin/python", help="an interpreter that has donjon")
    parser.add_argument("--workdir", type=Path, default=ROOT / ".cache/bench", help="needs 25 GB at 6 GiB")
    parser.add_argument("--date", default=datetime.now(UTC).date().isoformat(), help="to note (default: today)")
    options = parser.parse_args(argv)
    if options.smoke:
        options.gib, options.rounds = SMOKE_GIB, 1
    if unknown := set(options.only or ()) - set(PEERS):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}")
    return options


def choose(only: Sequence[str] | None, place: Place) -> list[Peer]:
    """The peers that are installed.

    Raises:
        BenchError: one asked for by name is not.
    """
    missing = [name for name in only or DEFAULT if not installed(name, place)]
    if missing and only:
        raise BenchError(f"cannot measure {', '.join(missing)}: not installed")
    for name in missing:
        print(f"bench: without {name}: not installed", file=sys.stderr)
    return [PEERS[name](place) for name in only or DEFAULT if name not in missing]


def measure(bench: Bench, options: argparse.Namespace, peers: Sequence[Peer]) -> None:
    """All rounds, and what needs measuring only once.

    Raises:
        BenchError: no room, or something failed.
    """
    needed = options.gib * SPACE_PER_GIB * 1e9
    if shutil.disk_usage(bench.place.folder).free < needed:
        raise BenchError(f"cannot work in {bench.place.folder}: {needed / 1e9:.0f} GB must be free")
    digests = make_image(bench, options.gib, options.seed)
    for number in range(options.rounds):
        one_round(bench, number, peers, digests)
    if any(peer.name == "donjon" for peer in peers):
        measure_giant(bench)
        measure_nbd(bench, options.rounds)
        blobs = 100_000 if options.smoke else 10_000_000
        index = json.loads(bench.helper("index.py", "--json", "--blobs", blobs))
        bench.add(Sample(0, "index", f"{blobs:,} blobs", rss_bytes=index["rss_bytes"], wall_s=index["load_s"]))
        for words, times in json.loads(bench.helper("startup.py", "--json", bench.place.donjon)).items():
            bench.samples += [Sample(number, "donjon", words, wall_s=wall_s) for number, wall_s in enumerate(times)]


def describe_machine(options: argparse.Namespace, peers: Sequence[Peer]) -> dict[str, str]:
    """What someone who wants to compare figures has to know."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "date": options.date,
        "command": f"bench/run --gib {options.gib:g} --rounds {options.rounds} --seed {options.seed}",
        "CPU": f"{cpu.partition(': ')[2] or platform.machine()}, {os.cpu_count()} cores",
        "memory": f"{memory / (1 << 30):.0f} GiB",
        "kernel": platform.release(),
        **{peer.name: version_of(peer) for peer in peers},
    }


def render(bench: Bench, machine: Mapping[str, str]) -> str:
    """All tables, in Markdown."""
    parts = ["\n".join(f"- {name}: {value}" for name, value in machine.items())]
    if targets := report.target_table(bench.samples):
        parts += ["### Targets", targets]
    for scenario, title in TITLES.items():
        if any(sample.scenario == scenario for sample in bench.samples):
            parts += [f"### {title}", report.scenario_table(bench.samples, scenario)]
        if ratios := report.ratio_table(bench.samples, scenario):
            parts.append(ratios)
    parts += ["### Primitives of a full backup", report.primitive_table(bench.primitives)]
    return "\n\n".join(parts)


def write_down(figures: str, bench: Bench, machine: Mapping[str, str]) -> None:
    """Replace the figures in RESULTS.md, and keep every single one as JSON."""
    text = RESULTS.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    RESULTS.write_text(f"{before}{BEGIN}\n\n{figures}\n\n{END}{after}", encoding="utf-8")
    raw = {
        "machine": machine,
        "samples": [
            {key: value for key, value in asdict(sample).items() if value is not None} for sample in bench.samples
        ],
        "primitives": bench.primitives,
    }
    folder = RESULTS.parent / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"{machine['date']}.json").write_text(json.dumps(raw, indent=1) + "\n")
