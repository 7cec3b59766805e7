# SPDX-License-Identifier: Apache-2.0
"""One round of the benchmark: every tool, one after the other, through full backup, restore and second backup."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from measure import BenchError, Command, Cost, run
from peers import Peer, Place
from sparse import digest, make_durable, read_all, size_on_disk

BLOCK = 512 << 10
"""donjon's block below 1 TiB; of what it reads, for a changed unit of an image."""


@dataclass(frozen=True)
class Sample:
    """One run of one tool. Bytes; `durable_s` is the wall time until the result is on the disk."""

    round: int
    peer: str
    scenario: str
    wall_s: float | None = None
    durable_s: float | None = None
    cpu_s: float | None = None
    rss_bytes: int | None = None
    read_bytes: int | None = None
    stored_bytes: int | None = None


@dataclass
class Bench:
    """A benchmark under way; `python` has donjon and its libraries."""

    place: Place
    python: Path
    samples: list[Sample] = field(default_factory=list)
    primitives: list[dict[str, float]] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.place.folder / "log"

    @property
    def units(self) -> Path:
        return self.place.folder / "units"

    def helper(self, script: str, *words: object) -> str:
        """Standard output of a script of this folder, run in a process of its own."""
        argv = [str(self.python), str(Path(__file__).with_name(script)), *map(str, words)]
        finished = subprocess.run(argv, capture_output=True, text=True, check=False)
        if finished.returncode:
            raise BenchError(f"cannot run {script}: {finished.stderr}")
        return finished.stdout

    def measure(self, command: Command, warm: Path) -> Cost:
        """Run with nothing waiting to be written, and what is going to be read in the page cache."""
        os.sync()
        read_all(warm)
        return run(command, self.log)

    def add(self, sample: Sample) -> None:
        self.samples.append(sample)
        figures = {"wall": sample.wall_s, "CPU": sample.cpu_s}
        cost = "  ".join(f"{name} {value:6.2f} s" for name, value in figures.items() if value is not None)
        print(f"round {sample.round}  {sample.peer:13s} {sample.scenario:15s} {cost}", file=sys.stderr, flush=True)


def make_image(bench: Bench, gib: float, seed: int) -> dict[str, str]:
    """Generate the image and the change to it, which is taken back; its SHA-256 before and after the change."""
    bench.helper("image.py", "create", bench.place.image, "--gib", gib, "--seed", seed)
    bench.helper("image.py", "change", bench.place.image, "--units", bench.units, "--seed", seed)
    facts = json.loads((bench.units / "extents.json").read_text())
    apply_units(bench, "before")
    return {"before": facts["before"], "after": facts["after"]}


def one_round(bench: Bench, number: int, peers: Sequence[Peer], digests: dict[str, str]) -> None:
    """Every peer through every scenario; leaves nothing but the image, as it was.

    Raises:
        BenchError: a tool failed, or did not give back what it was given.
    """
    turn = number % len(peers)
    peers = [*peers[turn:], *peers[:turn]]
    raw = [peer for peer in peers if peer.source == "raw"]
    tracked = [peer for peer in peers if peer.source == "qcow2"]
    try:
        for peer in raw:
            back_up(bench, number, peer, "full")
        time_primitives(bench, number)
        for peer in raw:
            restore(bench, number, peer, "restore", digests["before"])
        delete(bench.place.folder / "qemu-img.qcow2")
        for peer in tracked:
            make_qcow2(bench)
            back_up(bench, number, peer, "full")
        apply_units(bench, "after")
        for peer in peers:
            back_up(bench, number, peer, "second")
        delete(bench.place.qcow2)
        for peer in peers:
            restore(bench, number, peer, "restore second", digests["after"])
    finally:
        apply_units(bench, "before")
        clean(bench, peers)
    expect_reads(bench, number)


def back_up(bench: Bench, number: int, peer: Peer, scenario: str) -> None:
    """A full or second backup; what the tool reads to list its repository does not count as read from the image."""
    command = peer.full if scenario == "full" else peer.second
    if command is None:
        return
    bench.place.out.mkdir(exist_ok=True)
    if scenario == "full" and peer.setup:
        run(peer.setup, bench.log)
    idle = run(peer.idle, bench.log).read_bytes if peer.idle else 0
    size = size_on_disk(peer.repository) if peer.repository.exists() else 0
    cost = bench.measure(command, bench.place.qcow2 if peer.source == "qcow2" else bench.place.image)
    sample = Sample(number, peer.name, scenario, **asdict(cost), stored_bytes=size_on_disk(peer.repository) - size)
    bench.add(replace(sample, read_bytes=max(cost.read_bytes - idle, 0)))


def restore(bench: Bench, number: int, peer: Peer, scenario: str, expected: str) -> None:
    """Restore to a new file and compare it with the image."""
    command = peer.restore if scenario == "restore" else peer.restore_second
    if command is None:
        return
    with fresh_folder(bench.place.out):
        cost = bench.measure(command, peer.repository)
        durable_s = cost.wall_s + _seconds(lambda: make_durable(peer.restored))
        stored = size_on_disk(peer.restored)
        if (found := digest(peer.restored)) != expected:
            raise BenchError(f"{peer.name} gave back something else: SHA-256 {found} instead of {expected}")
    bench.add(Sample(number, peer.name, scenario, **asdict(cost), durable_s=durable_s, stored_bytes=stored))


def time_primitives(bench: Bench, number: int) -> None:
    """CPU of what no tool can do without, as if it were a tool's full backup."""
    scratch = bench.place.folder / "primitives"
    os.sync()
    read_all(bench.place.image)
    steps: dict[str, float] = json.loads(bench.helper("primitives.py", bench.place.image, scratch))
    size = size_on_disk(scratch)
    scratch.unlink()
    bench.primitives.append(steps)
    bench.add(Sample(number, "primitives", "full", cpu_s=sum(steps.values()), stored_bytes=size))


def expect_reads(bench: Bench, number: int) -> None:
    """What a tool that knows the changed units has to read: the blocks they lie in."""
    units = json.loads((bench.units / "extents.json").read_text())["extents"]
    blocks = {offset // BLOCK for offset, _ in units}
    bench.samples.append(Sample(number, "changed blocks", "second", read_bytes=len(blocks) * BLOCK))


def make_qcow2(bench: Bench) -> None:
    """The image again, as qcow2."""
    place = bench.place
    run(Command(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(place.image), str(place.qcow2)]), bench.log)


def apply_units(bench: Bench, state: str) -> None:
    """Put the units that change into the state "before" or "after": in the raw image and, by QEMU, in the qcow2 one."""
    files = {int(path.stem): path for path in sorted(bench.units.glob(f"*.{state}"))}
    with bench.place.image.open("r+b", buffering=0) as image:
        for offset, path in files.items():
            os.pwrite(image.fileno(), path.read_bytes(), offset)
        os.fsync(image.fileno())
    if bench.place.qcow2.exists():
        script = bench.place.folder / "writes"
        script.write_text("".join(f"write -q -s {path} {offset} 65536\n" for offset, path in files.items()))
        run(Command(["qemu-io", "-f", "qcow2", str(bench.place.qcow2)], stdin=script), bench.log)


def clean(bench: Bench, peers: Sequence[Peer]) -> None:
    """Delete every repository, and what the tools keep beside it."""
    for peer in peers:
        for path in bench.place.folder.glob(f"{peer.name}*"):
            delete(path)
    delete(bench.place.qcow2)


@contextmanager
def fresh_folder(folder: Path) -> Iterator[None]:
    """An empty folder that is gone afterwards."""
    delete(folder)
    folder.mkdir(parents=True)
    try:
        yield
    finally:
        delete(folder)


def delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _seconds(work: Callable[[], None]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
