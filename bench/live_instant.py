# SPDX-License-Identifier: Apache-2.0
"""A guest that boots from the repository, next to the same guest booting from a local qcow2 image."""

from __future__ import annotations

import re
import time
from dataclasses import asdict
from pathlib import Path

from live_guest import NAME, TICKS, remove
from live_rounds import Live, tool_of
from live_tools import Donjon
from measure import BenchError
from rounds import Sample

from lab.guest import define, said, virsh, wait_for

INSTANT, BOOT, LOCAL = "instant restore", "boot", "boot, and read"
LOCAL_PEER = "local qcow2"
READ_MIB = 64
VERIFIED = "verified"
NOW, THEN = f"{NAME}-now", f"{NAME}-local"


def measure_instant(live: Live, rounds: int) -> None:
    """Boot the guest in turn from the repository and from a local image; it mounts its disk and reads what it has.

    The guest is off afterwards.

    Raises:
        BenchError: a command failed, or the guest found something else than it had written.
    """
    guest = live.guest
    guest.do(f"write:many:{READ_MIB}:vda")
    xml = guest.virsh("dumpxml", "--security-info", "--inactive", NAME)
    define(guest.uri, re.sub(r"donjon\.job=[^\s<]*", "donjon.job=verify", xml))
    with tool_of(live, "donjon") as tool:
        assert isinstance(tool, Donjon)
        live.bench.measure(tool.backup(), tool.kept)
        guest.virsh("destroy", NAME)
        place = guest.folder / "local"
        restore = tool.command("restore", NAME, "--directory", place, "--name", THEN)
        live.bench.measure(restore, tool.kept)
        for number in range(rounds):
            turns = [boot_from_repository, boot_locally]
            for boot in turns if number % 2 == 0 else turns[::-1]:
                boot(live, number, tool)
        remove(guest.host, THEN)


def boot_from_repository(live: Live, number: int, tool: Donjon) -> None:
    guest = live.guest
    place = guest.folder / f"now-{number}"
    guest.console.unlink(missing_ok=True)
    command = tool.command("restore", NAME, "--instant", "--directory", place, "--name", NOW)
    cost = live.bench.measure(command, tool.kept)
    live.bench.add(Sample(number, tool.name, INSTANT, **asdict(cost)))
    _time_boot(live, number, tool.name, NOW)
    live.bench.measure(tool.command("restore", NOW, "--discard"), tool.kept)


def boot_locally(live: Live, number: int, _tool: Donjon) -> None:
    live.guest.console.unlink(missing_ok=True)
    virsh(live.guest.uri, "start", THEN)
    _time_boot(live, number, LOCAL_PEER, THEN)
    virsh(live.guest.uri, "destroy", THEN)


def _time_boot(live: Live, number: int, peer: str, name: str) -> None:
    """From the start of QEMU until the guest is up, and until it has read and checked its files."""
    guest = live.guest
    pid = guest.host.qemu_pid(name)
    for scenario, word in ((BOOT, "ready"), (LOCAL, VERIFIED)):
        wait_for(guest.console, word)
        live.bench.add(Sample(number, peer, scenario, wall_s=age_of(pid)))
    if any("FAILED" in line for line in said(guest.console)):
        raise BenchError(f"the guest booted as {name} found something else than it had written")


def age_of(pid: int) -> float:
    """How long a process has lived, in seconds. Source: proc(5)."""
    started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]) / TICKS
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started
