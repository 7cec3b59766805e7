# SPDX-License-Identifier: Apache-2.0
"""What donjon and virtnbdbackup make of the same accidents: runs them, and writes docs/score.md; `--help`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from live_guest import BenchGuest, make_disk, running_guest, running_host
from live_report import first_line
from live_tools import Donjon, Tool, Virtnbdbackup
from report import table, write_between
from score_scenarios import SCENARIOS, Scenario
from score_stage import Stage

from lab import LabError
from lab.guest_kit import GuestKit
from lab.libvirt_host import Host

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "score.md"
RESULTS = ROOT / "bench" / "results" / "score.json"
BEGIN, END = "<!-- results: written by make score -->", "<!-- end of results -->"
DISK_MIB, FILLED_MIB = 256, 64
TOOLS: dict[str, Callable[[BenchGuest, Path], Tool]] = {
    "donjon": lambda guest, program: Donjon(guest, guest.folder / "tool", guest.folder / "scratch", program),
    "virtnbdbackup": lambda guest, _: Virtnbdbackup(guest, guest.folder / "tool", guest.folder / "scratch"),
}


Result = list[str]
"""Verdict, what the tool said, what is true."""
UNKNOWN = ["-", "-", "-"]
Results = dict[str, dict[str, Result]]
"""By scenario and tool."""


def main() -> int:
    options = parse(sys.argv[1:])
    if shutil.which("virtnbdbackup") is None or os.geteuid() != 0:
        print("score: needs root, and virtnbdbackup installed", file=sys.stderr)
        return 1
    chosen = [scenario for scenario in SCENARIOS if not options.only or scenario.__name__ in options.only]
    results: Results = json.loads(RESULTS.read_text(encoding="utf-8")) if options.only and RESULTS.exists() else {}
    for scenario, name, result in run_all(chosen, options):
        results.setdefault(scenario, {})[name] = result
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        write_between(PAGE, BEGIN, END, render(results, options))
    print(f"score: written to {PAGE}")
    return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/score.py", description=__doc__)
    names = ",".join(scenario.__name__ for scenario in SCENARIOS)
    parser.add_argument("--only", type=lambda text: text.split(","), help=f"of {names}; the others stay as recorded")
    parser.add_argument("--donjon", type=Path, default=ROOT / ".venv/bin/donjon")
    return parser.parse_args(argv)


def run_all(scenarios: Sequence[Scenario], options: argparse.Namespace) -> Iterable[tuple[str, str, Result]]:
    """Each scenario with each tool, on a guest of its own."""
    with running_host() as (host, kit):
        content = host.images / "content"
        content.mkdir()
        (content / "data").write_bytes(os.urandom(FILLED_MIB << 20))
        disk = host.images / "disk.qcow2"
        make_disk(disk, DISK_MIB, content)
        for scenario in scenarios:
            for name in TOOLS:
                result = run_one(host, kit, disk, scenario, name, options.donjon.absolute())
                print(f"{scenario.__name__:22s} {name:14s} {' | '.join(result)}", file=sys.stderr, flush=True)
                yield scenario.__name__, name, result


def run_one(host: Host, kit: GuestKit, disk: Path, scenario: Scenario, name: str, program: Path) -> Result:
    with running_guest(host, kit, disk, "writer:vda:8:50", memory_mib=128) as guest:
        stage = Stage(guest, TOOLS[name](guest, program))
        stage.tool.prepare()
        try:
            scenario(stage)
            stage.look_at_guest("in the end")
            stage.look_at_host("in the end")
        except LabError as error:
            return ["not finished", "; ".join(stage.said), "; ".join([*stage.truth, str(error)[:200]])]
        return [stage.verdict, "; ".join(stage.said), "; ".join(stage.truth)]


def render(results: Results, options: argparse.Namespace) -> str:
    """Both tables, in Markdown."""
    versions = [
        ("date", datetime.now(UTC).date().isoformat()),
        ("donjon", first_line(str(options.donjon), "--version")),
        ("virtnbdbackup", f"{first_line('virtnbdbackup', '--version')}, Debian 12's package"),
        ("QEMU", first_line("qemu-system-x86_64", "--version")),
        ("libvirt", first_line("/usr/sbin/libvirtd", "--version")),
    ]
    titles = {
        scenario.__name__: (scenario.__doc__ or "").strip() for scenario in SCENARIOS if scenario.__name__ in results
    }
    short = [[titles[key], *(results[key].get(name, UNKNOWN)[0] for name in TOOLS)] for key in titles]
    parts = ["\n".join(f"- {name}: {value}" for name, value in versions), table(["what happens", *TOOLS], short)]
    counts = {name: Counter(results[key].get(name, UNKNOWN)[0].replace("*", "") for key in titles) for name in TOOLS}
    verdicts = sorted({verdict for count in counts.values() for verdict in count})
    rows = [[name, *(str(counts[name][verdict]) for verdict in verdicts)] for name in TOOLS]
    parts += [table(["", *verdicts], rows)]
    if missing := [scenario.__doc__ or "" for scenario in SCENARIOS if scenario.__name__ not in results]:
        parts.append("Not run yet: " + "; ".join(missing) + ".")
    parts.append("## In detail")
    for key, title in titles.items():
        detail = [[name, *results[key].get(name, UNKNOWN)[1:]] for name in TOOLS]
        parts += [f"### {title}", table(["", "what the tool said: exit codes", "what is true"], detail)]
    return "\n\n".join(parts)


if __name__ == "__main__":
    raise SystemExit(main())
