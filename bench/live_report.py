# SPDX-License-Identifier: Apache-2.0
"""Turns what was measured of live backup into tables, and says which promises are kept."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import nbd
import report
from live_files import BACKUP, GET
from live_instant import BOOT, INSTANT, LOCAL, LOCAL_PEER
from live_rounds import FULL, IDLE, INCREMENT
from report import MIB, Run, Target
from rounds import Sample

PAGE = Path(__file__).with_name("RESULTS.md")
RAW = PAGE.parent / "results" / "live.json"
BEGIN, END = "<!-- figures: written by make bench-live -->", "<!-- end of live figures -->"
COLUMNS = (
    ("wall s", "wall_s", 1.0),
    ("CPU s", "cpu_s", 1.0),
    ("QEMU's CPU s", "qemu_cpu_s", 1.0),
    ("libvirtd's CPU s", "libvirtd_cpu_s", 1.0),
    ("RSS MiB", "rss_bytes", MIB),
    ("read MiB", "read_bytes", MIB),
    ("stored MB", "stored_bytes", 1e6),
    ("frozen s", "frozen_s", 1.0),
    ("median write ms", "median_latency_s", 1e-3),
    ("p99 ms", "p99_latency_s", 1e-3),
    ("worst ms", "worst_latency_s", 1e-3),
)
TITLES = {
    IDLE: "The guest without a backup",
    FULL: "Full backup of the running guest",
    INCREMENT: "Incremental backup of the running guest",
    "dirty blocks": "What an increment reads: dirty blocks by QEMU's bitmap, and donjon",
    "restore": "Restore of all of the disk",
    INSTANT: "Instant restore: the command, until the guest runs",
    BOOT: "Boot, from the start of QEMU until the guest is up",
    LOCAL: "Boot, until the guest has read and checked 88 MiB of files",
    BACKUP: "Backup of a sparse disk of 100 GiB that holds 100 MiB",
    GET: "One file of that disk",
    nbd.CLIENT: "Reading an image from qemu-nbd",
    nbd.SERVER: "Serving an image to nbdcopy",
}
PEER = "virtnbdbackup"
OURS_FULL, OURS_INCREMENT = Run("donjon", FULL), Run("donjon", INCREMENT)
AT_REST = Run("guest", IDLE)
TARGETS = (
    Target(
        "increment: bytes read, of the dirty blocks", "read_bytes", Run("donjon", "dirty blocks"), 1.0,
        Run("guest", "dirty blocks"),
    ),
    Target("full: guest frozen, s", "frozen_s", OURS_FULL, 0.5),
    Target("increment: guest frozen, s", "frozen_s", OURS_INCREMENT, 0.5),
    Target("full: peak memory, MiB", "rss_bytes", OURS_FULL, 300, unit=MIB),
    Target("instant restore: until the guest runs, s", "wall_s", Run("donjon", INSTANT), 1.0),
    Target("boot from the repository, of a local one", "wall_s", Run("donjon", BOOT), 1.25, Run(LOCAL_PEER, BOOT)),
    Target("the same until files are read", "wall_s", Run("donjon", LOCAL), 1.25, Run(LOCAL_PEER, LOCAL)),
    Target("one file of 100 GiB, s", "wall_s", Run("donjon", GET), 3.0),
    Target("100 GiB sparse, backup: peak memory, MiB", "rss_bytes", Run("donjon", BACKUP), 300, unit=MIB),
    Target("NBD client: wall, of nbdcopy's", "wall_s", Run("donjon", nbd.CLIENT), 1.25, Run("nbdcopy", nbd.CLIENT)),
    Target("NBD server: wall, of qemu-nbd's", "wall_s", Run("donjon", nbd.SERVER), 2.0, Run("qemu-nbd", nbd.SERVER)),
)  # fmt: skip
COMPARED = (
    Target("full: wall, of virtnbdbackup's", "wall_s", OURS_FULL, 0, Run(PEER, FULL)),
    Target("full: CPU, of virtnbdbackup's", "cpu_s", OURS_FULL, 0, Run(PEER, FULL)),
    Target("increment: wall, of virtnbdbackup's", "wall_s", OURS_INCREMENT, 0, Run(PEER, INCREMENT)),
    Target("increment: CPU, of virtnbdbackup's", "cpu_s", OURS_INCREMENT, 0, Run(PEER, INCREMENT)),
    Target("full: p99 of a durable write, of virtnbdbackup's", "p99_latency_s", OURS_FULL, 0, Run(PEER, FULL)),
    Target("full: p99 of a durable write, of the idle guest's", "p99_latency_s", OURS_FULL, 0, AT_REST),
    Target("increment: p99 of a durable write, of the idle guest's", "p99_latency_s", OURS_INCREMENT, 0, AT_REST),
    Target("full: p99 with virtnbdbackup, of the idle guest's", "p99_latency_s", Run(PEER, FULL), 0, AT_REST),
)


def render(samples: Sequence[Sample], machine: Mapping[str, str]) -> str:
    """All tables, in Markdown."""
    parts = ["\n".join(f"- {name}: {value}" for name, value in machine.items())]
    parts += ["#### Targets", report.target_table(samples, TARGETS), report.plain_table(samples, COMPARED)]
    for scenario, title in TITLES.items():
        if any(sample.scenario == scenario for sample in samples):
            parts += [f"#### {title}", report.scenario_table(samples, scenario, COLUMNS)]
            if ratios := report.ratio_table(samples, scenario):
                parts.append(ratios)
    return "\n\n".join(parts)


def write_down(figures: str, samples: Sequence[Sample], machine: Mapping[str, str]) -> None:
    """Replace the figures in RESULTS.md, and keep every single one as JSON."""
    report.write_between(PAGE, BEGIN, END, figures)
    known = [{key: value for key, value in asdict(sample).items() if value is not None} for sample in samples]
    RAW.write_text(json.dumps({"machine": machine, "samples": known}, indent=1) + "\n", encoding="utf-8")


def describe_machine(gib: float, rounds: int, donjon: Path) -> dict[str, str]:
    """What someone who wants to compare figures has to know."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {
        "command": f"make bench-live ({gib:g} GiB, {rounds} rounds)",
        "CPU": f"{cpu.partition(': ')[2] or platform.machine()}, {os.cpu_count()} cores, guest emulated (TCG)",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / (1 << 30):.0f} GiB",
        "kernel": ".".join(platform.release().split(".")[:2]),
        "donjon": first_line(str(donjon), "--version"),
        "virtnbdbackup": first_line("virtnbdbackup", "--version"),
        "QEMU": first_line("qemu-system-x86_64", "--version"),
        "libvirt": first_line("/usr/sbin/libvirtd", "--version"),
    }


def first_line(*argv: str) -> str:
    """What a program says about itself."""
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.partition("\n")[0]
