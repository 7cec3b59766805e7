# SPDX-License-Identifier: Apache-2.0
"""Turns samples into tables: medians, ratios pair by pair, and whether the targets are met."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from statistics import median

from rounds import Sample

MIB = 1 << 20
Column = tuple[str, str, float]
COLUMNS: tuple[Column, ...] = (
    ("wall s", "wall_s", 1.0),
    ("durable s", "durable_s", 1.0),
    ("CPU s", "cpu_s", 1.0),
    ("RSS MiB", "rss_bytes", MIB),
    ("read MiB", "read_bytes", MIB),
    ("stored MB", "stored_bytes", 1e6),
)


@dataclass(frozen=True)
class Run:
    """Which figure is meant: of a tool, in a scenario."""

    peer: str
    scenario: str


@dataclass(frozen=True)
class Target:
    """A promise: ours must be at most `limit`, or with `theirs` at most `limit` times theirs."""

    promise: str
    metric: str
    ours: Run
    limit: float
    theirs: Run | None = None
    unit: float = 1.0


FULL, SECOND, RESTORE = (Run("donjon", scenario) for scenario in ("full", "second", "restore"))
TRACKED, CHANGED = Run("donjon-qcow2", "second"), Run("changed blocks", "second")
NBD_CLIENT, NBD_SERVER = Run("donjon", "NBD client"), Run("donjon", "NBD server")
OURS = ("donjon", "donjon-qcow2")
TARGETS = (
    Target("full: CPU, of restic's", "cpu_s", FULL, 1 / 3, Run("restic", "full")),
    Target("full: wall, of restic's", "wall_s", FULL, 1 / 3, Run("restic", "full")),
    Target("full: wall, of borg's", "wall_s", FULL, 1 / 2, Run("borg", "full")),
    Target("full: CPU, of the sum of its primitives", "cpu_s", FULL, 1.25, Run("primitives", "full")),
    Target("full: size of the repository, of restic's", "stored_bytes", FULL, 1.03, Run("restic", "full")),
    Target("full: peak memory, MiB", "rss_bytes", FULL, 300, unit=MIB),
    Target("1 % changed, known: wall, of restic's", "wall_s", TRACKED, 1 / 20, Run("restic", "second")),
    Target("1 % changed, known: bytes read, of the changed blocks", "read_bytes", TRACKED, 1.1, CHANGED),
    Target("1 % changed, unknown: wall, of borg's", "wall_s", SECOND, 1.0, Run("borg", "second")),
    Target("restore: CPU, of restic's", "cpu_s", RESTORE, 1 / 2, Run("restic", "restore")),
    Target("restore: wall, of cp's", "wall_s", RESTORE, 1.5, Run("cp", "restore")),
    Target("restore: wall until on the disk, of cp's", "durable_s", RESTORE, 1.5, Run("cp", "restore")),
    Target("restore: peak memory, MiB", "rss_bytes", RESTORE, 300, unit=MIB),
    Target("4 TiB sparse, full: peak memory, MiB", "rss_bytes", Run("donjon", "4 TiB, full"), 300, unit=MIB),
    Target("4 TiB sparse, restore: peak memory, MiB", "rss_bytes", Run("donjon", "4 TiB, restore"), 300, unit=MIB),
    Target("NBD client: wall, of nbdcopy's", "wall_s", NBD_CLIENT, 1.25, Run("nbdcopy", "NBD client")),
    Target("NBD server: wall, of qemu-nbd's", "wall_s", NBD_SERVER, 2.0, Run("qemu-nbd", "NBD server")),
    Target("index of 10 million blobs: memory, MiB", "rss_bytes", Run("index", "10,000,000 blobs"), 600, unit=MIB),
    Target("start-up of `donjon --help`, s", "wall_s", Run("donjon", "--help"), 0.2),
    Target("start-up of `donjon list`, s", "wall_s", Run("donjon", "list"), 0.2),
)


def values(samples: Iterable[Sample], run: Run, metric: str) -> dict[int, float]:
    """A figure by round; only where it was measured."""
    chosen = (sample for sample in samples if (sample.peer, sample.scenario) == (run.peer, run.scenario))
    return {sample.round: value for sample in chosen if (value := getattr(sample, metric, None)) is not None}


def ratios(ours: Mapping[int, float], theirs: Mapping[int, float]) -> list[float]:
    """Ours divided by theirs, for every round that has both."""
    return [figure / theirs[number] for number, figure in ours.items() if theirs.get(number)]


def spread(figures: Sequence[float], unit: float = 1.0) -> str:
    """Median, and least to greatest where there are several."""
    scaled = sorted(figure / unit for figure in figures)
    if not scaled:
        return "-"
    digits = 3 if scaled[-1] < 2 else 1 if scaled[-1] < 100 else 0
    middle = f"{median(scaled):.{digits}f}"
    return middle if len(scaled) == 1 else f"{middle} ({scaled[0]:.{digits}f}-{scaled[-1]:.{digits}f})"


def scenario_table(samples: Sequence[Sample], scenario: str, columns: Sequence[Column] = COLUMNS) -> str:
    """What every tool cost in a scenario; of `columns` those that have a figure, COLUMNS all."""
    peers = list(dict.fromkeys(sample.peer for sample in samples if sample.scenario == scenario))
    rows = [[peer, *(_cell(samples, Run(peer, scenario), *column[1:]) for column in columns)] for peer in sorted(peers)]
    shown = [columns is COLUMNS or any(row[place] != "-" for row in rows) for place in range(1, len(columns) + 1)]
    header, *rows = [[*compress(row, [True, *shown])] for row in [["", *(title for title, *_ in columns)], *rows]]
    return table(header, rows)


def target_table(samples: Sequence[Sample], targets: Sequence[Target] = TARGETS) -> str:
    """Every promise of which all figures were measured, with the verdict."""
    rows = []
    for target in targets:
        if figures := _figures(samples, target):
            met = "met" if median(figures) / target.unit <= target.limit else "**not met**"
            rows.append([target.promise, spread(figures, target.unit), f"<= {target.limit:.3g}", met])
    return table(["", "median (least-greatest)", "target", ""], rows) if rows else ""


def plain_table(samples: Sequence[Sample], targets: Sequence[Target]) -> str:
    """The same of what nobody has promised anything about."""
    rows = [
        [target.promise, spread(figures, target.unit)] for target in targets if (figures := _figures(samples, target))
    ]
    return table(["", "median (least-greatest)"], rows) if rows else ""


def _figures(samples: Sequence[Sample], target: Target) -> list[float]:
    ours = values(samples, target.ours, target.metric)
    return ratios(ours, values(samples, target.theirs, target.metric)) if target.theirs else list(ours.values())


def ratio_table(samples: Sequence[Sample], scenario: str) -> str:
    """donjon's wall and CPU as parts of every other tool's, round by round; empty if there is nothing to compare."""
    others = {sample.peer for sample in samples if sample.scenario == scenario} - {*OURS, CHANGED.peer}
    rows = [
        [peer, *(spread(_ratios(samples, scenario, peer, metric)) for metric in ("wall_s", "cpu_s"))]
        for peer in sorted(others)
    ]
    return table(["donjon, as part of", "wall", "CPU"], rows) if any(row[1:] != ["-", "-"] for row in rows) else ""


def _ratios(samples: Sequence[Sample], scenario: str, peer: str, metric: str) -> list[float]:
    return ratios(values(samples, Run("donjon", scenario), metric), values(samples, Run(peer, scenario), metric))


def primitive_table(primitives: Sequence[dict[str, float]]) -> str:
    """CPU seconds of each primitive."""
    rows = [[step, spread([steps[step] for steps in primitives])] for step in (primitives[0] if primitives else {})]
    return table(["primitive", "CPU s"], rows)


def write_between(page: Path, begin: str, end: str, text: str) -> None:
    """Replace what stands between two marks of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(samples: Sequence[Sample], run: Run, metric: str, unit: float) -> str:
    return spread(list(values(samples, run, metric).values()), unit)
