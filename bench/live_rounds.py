# SPDX-License-Identifier: Apache-2.0
"""Rounds on a running guest: each tool makes a full backup, an increment, and one that is compared with the disk."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from live_guest import NAME, BenchGuest, raw_of
from live_probe import latencies, percentile, start_probe, watching_freezes
from live_tools import Donjon, Tool, Virtnbdbackup
from measure import BenchError
from rounds import BLOCK, Bench, Sample
from sparse import same_content, size_on_disk

from lab.programs import run

FULL, INCREMENT, IDLE = "live full", "live increment", "no backup"
CHANGED_MIB = 24
PROBE_MIB, PROBE_PAUSE_MS = 32, 5
IDLE_S = 8.0
QEMU, LIBVIRTD = "qemu-system-x86_64", "libvirtd"
JOB = """\
<domainbackup mode='pull'>{since}
  <server transport='unix' socket='{socket}'/>
  <disks><disk name='vda' backup='yes' type='file'><scratch file='{scratch}'/></disk></disks>
</domainbackup>
"""


@dataclass(frozen=True)
class LiveSample(Sample):
    """What a backup of a running guest cost others, too: CPU of QEMU and libvirtd, and what the guest felt of it."""

    qemu_cpu_s: float | None = None
    libvirtd_cpu_s: float | None = None
    frozen_s: float | None = None
    median_latency_s: float | None = None
    p99_latency_s: float | None = None
    worst_latency_s: float | None = None


@dataclass(frozen=True)
class Live:
    """A benchmark under way, and its guest."""

    bench: Bench
    guest: BenchGuest


PEERS: dict[str, Callable[[Live, Path], Tool]] = {
    "donjon": lambda live, home: Donjon(live.guest, home, home / "scratch", live.bench.place.donjon),
    "virtnbdbackup": lambda live, home: Virtnbdbackup(live.guest, home, home / "scratch"),
    "virtnbdbackup -z": lambda live, home: Virtnbdbackup(live.guest, home, home / "scratch", ("-z",)),
}


def start_writing(guest: BenchGuest) -> None:
    """Let the guest write modestly, for as long as it runs."""
    guest.do(f"write:changing:{CHANGED_MIB}:vda", "writer:vda:16:50")
    start_probe(guest, PROBE_MIB, PROBE_PAUSE_MS)


def live_round(live: Live, number: int) -> None:
    """Every tool, one after the other; each round begins with another.

    Raises:
        BenchError: a tool failed, or did not give back what the disk held.
    """
    latencies(live.guest)
    time.sleep(IDLE_S)
    live.bench.add(replace(LiveSample(number, "guest", IDLE), **_felt(live.guest)))
    turn = number % len(PEERS)
    names = [*PEERS][turn:] + [*PEERS][:turn]
    for name in names:
        with tool_of(live, name) as tool:
            back_up(live, number, name, tool, FULL)
            live.guest.do(f"write:changing:{CHANGED_MIB}:vda")
            back_up(live, number, name, tool, INCREMENT)
            live.guest.do(f"write:changing:{CHANGED_MIB}:vda")
            verify(live, number, name, tool)


@contextmanager
def tool_of(live: Live, name: str) -> Iterator[Tool]:
    """A tool that has no backup yet; nothing of it stays, not in QEMU either."""
    home = live.guest.folder / "tool"
    tool = PEERS[name](live, home)
    try:
        tool.prepare()
        yield tool
    finally:
        live.guest.forget_checkpoints(bitmaps=True)
        shutil.rmtree(home)


def back_up(live: Live, number: int, name: str, tool: Tool, scenario: str) -> None:
    """Measure a backup of the guest as it writes."""
    guest, bench = live.guest, live.bench
    before = size_on_disk(tool.kept)
    latencies(guest)
    programs = {QEMU: guest.cpu_s(QEMU), LIBVIRTD: guest.cpu_s(LIBVIRTD)}
    with watching_freezes(guest) as freezes:
        cost = bench.measure(tool.backup(), tool.kept)
    used = {program: guest.cpu_s(program) - was for program, was in programs.items()}
    sample = LiveSample(
        number,
        name,
        scenario,
        cost.wall_s,
        cpu_s=cost.cpu_s,
        rss_bytes=cost.rss_bytes,
        read_bytes=bytes_read(bench.log, tool),
        stored_bytes=size_on_disk(tool.kept) - before,
        qemu_cpu_s=used[QEMU],
        libvirtd_cpu_s=used[LIBVIRTD],
        frozen_s=sum(freezes.seconds) if freezes.seconds else None,
    )
    bench.add(replace(sample, **_felt(guest)))


def verify(live: Live, number: int, name: str, tool: Tool) -> None:
    """Back the guest up while it is suspended, restore that, and compare; donjon must have read what is dirty."""
    guest, bench = live.guest, live.bench
    with guest.suspended():
        dirty = dirty_blocks(guest) if isinstance(tool, Donjon) else 0
        bench.measure(tool.backup(), tool.kept)
        if isinstance(tool, Donjon):
            read = (bytes_read(bench.log, tool) or 0) - compared(bench.log)
            bench.add(Sample(number, name, "dirty blocks", read_bytes=read))
            bench.add(Sample(number, "guest", "dirty blocks", read_bytes=dirty * BLOCK))
        truth = guest.contents(guest.folder / "truth")["vda"]
    restored = guest.folder / "restored"
    cost = bench.measure(tool.restore(restored), tool.kept)
    bench.add(Sample(number, name, "restore", **asdict(cost)))
    image = tool.restored(restored)["vda"]
    if not same_content(raw_of(image), truth):
        raise BenchError(f"{name} gave back something else than the guest's disk held")
    shutil.rmtree(restored)
    shutil.rmtree(truth.parent)


def bytes_read(log: Path, tool: Tool) -> int | None:
    """Of the guest's disk, as donjon says; virtnbdbackup's share is what it has stored."""
    return int(_report(log)["read"]) if isinstance(tool, Donjon) else None


def compared(log: Path) -> int:
    """Bytes that were read only to prove what the bitmap says."""
    return int(_report(log)["compared"])


def _report(log: Path) -> dict[str, int]:
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
    [disk] = json.loads(lines[-1])["backups"][0]["disks"]
    return dict(disk)


def dirty_blocks(guest: BenchGuest) -> int:
    """How many of donjon's blocks the guest has touched since its checkpoint, as QEMU's own NBD server tells nbdinfo.

    A block that is all hole now is none to be read.
    """
    [checkpoint] = guest.checkpoints()
    folder = guest.folder / "dirty"
    folder.mkdir()
    socket, xml = folder / "nbd", folder / "job.xml"
    since = f"<incremental>{checkpoint}</incremental>"
    xml.write_text(JOB.format(since=since, socket=socket, scratch=folder / "scratch"), encoding="utf-8")
    guest.virsh("backup-begin", NAME, str(xml))
    try:
        address = f"nbd+unix:///vda?socket={socket}"
        dirty = json.loads(run("nbdinfo", "--json", "--map=qemu:dirty-bitmap:backup-vda", address))
        zero = json.loads(run("nbdinfo", "--json", "--map=base:allocation", address))
    finally:
        guest.virsh("domjobabort", NAME)
        while guest.has_job():
            time.sleep(0.05)
        shutil.rmtree(folder)
    touched = _blocks(dirty)
    return len(touched & _blocks(zero, of_type=0))


def _blocks(extents: list[dict[str, int]], of_type: int = 1) -> set[int]:
    return {
        block
        for extent in extents
        if extent["type"] == of_type
        for block in range(extent["offset"] // BLOCK, -(-(extent["offset"] + extent["length"]) // BLOCK))
    }


def _felt(guest: BenchGuest) -> dict[str, Any]:
    figures = latencies(guest)
    if not figures:
        raise BenchError("the guest's probe does not write")
    parts = {"median_latency_s": 0.5, "p99_latency_s": 0.99, "worst_latency_s": 1.0}
    return {name: percentile(figures, part) for name, part in parts.items()}
