# SPDX-License-Identifier: Apache-2.0
"""What a guest feels of its own backup: how long its durable writes take, and for how long it is frozen."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from live_guest import NAME, BenchGuest

from lab.agent import ask, execute
from lab.guest import said
from lab.programs import run

SOURCE = Path(__file__).with_name("probe.c")
PROGRAM, LATENCIES = "/run/probe", "/run/latencies"
PIECE = 48 << 10
"""What fits into one message to the agent on one command line, in base64."""
FREEZE, THAW = "hook freeze", "hook thaw"
POLL_S = 0.002


def start_probe(guest: BenchGuest, mib: int, pause_ms: int) -> None:
    """Compile it, bring it into the guest, and let it write to its first disk from now on. Raises LabError."""
    program = guest.folder / "probe"
    run("gcc", "-O2", "-static", "-s", "-o", program, SOURCE)
    handle = ask(guest.uri, NAME, "guest-file-open", path=PROGRAM, mode="w")
    content = program.read_bytes()
    for at in range(0, len(content), PIECE):
        part = base64.b64encode(content[at : at + PIECE]).decode()
        ask(guest.uri, NAME, "guest-file-write", handle=handle, **{"buf-b64": part})
    ask(guest.uri, NAME, "guest-file-close", handle=handle)
    execute(guest.uri, NAME, "/bin/chmod", "755", PROGRAM)
    words = ["/data/vda/probe", str(mib), str(pause_ms), LATENCIES]
    ask(guest.uri, NAME, "guest-exec", path=PROGRAM, arg=words)


def latencies(guest: BenchGuest) -> list[float]:
    """Of the writes since this was asked last, in seconds."""
    done = execute(guest.uri, NAME, "/bin/sh", "-c", f"/bin/busybox cat {LATENCIES}; : >{LATENCIES}")
    return [int(line) / 1e6 for line in done.stdout.split()]


def percentile(figures: Sequence[float], part: float) -> float:
    """The least figure that this part of all do not exceed."""
    return sorted(figures)[max(0, min(len(figures) - 1, round(len(figures) * part + 0.5) - 1))]


@dataclass
class Freezes:
    """How long the guest was frozen, each time: from its agent's hook before to the one after, as its console said."""

    seconds: list[float] = field(default_factory=list)


@contextmanager
def watching_freezes(guest: BenchGuest) -> Iterator[Freezes]:
    """Read the guest's console while the block runs."""
    freezes, over = Freezes(), threading.Event()
    watcher = threading.Thread(target=_watch, args=(guest.console, freezes, over))
    watcher.start()
    try:
        yield freezes
    finally:
        over.set()
        watcher.join()


def _watch(console: Path, freezes: Freezes, over: threading.Event) -> None:
    size, known = -1, sum(line in {FREEZE, THAW} for line in said(console))
    begun = 0.0
    while not over.is_set():
        if (now := console.stat().st_size) != size:
            size = now
            hooks = [line for line in said(console) if line in {FREEZE, THAW}]
            for line in hooks[known:]:
                if line == FREEZE:
                    begun = time.monotonic()
                elif begun:
                    freezes.seconds.append(time.monotonic() - begun)
            known = len(hooks)
        time.sleep(POLL_S)
