# SPDX-License-Identifier: Apache-2.0
"""Who a process is, so that another process can tell later whether it still lives.

Source: proc(5), /proc/PID/stat fields 3 (state) and 22 (start time in clock ticks since boot).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

_GONE = frozenset({"Z", "X"})


class Process(NamedTuple):
    """One process on this host: process ids are given out again, but not with the same start time in the same boot."""

    pid: int
    start: int
    boot_id: str

    def is_alive(self) -> bool:
        """Whether this very process still runs; a zombie does not."""
        return self.boot_id == _boot_id() and self.start == _start_time(self.pid)


NOBODY = Process(0, 0, "")
"""The owner of what nobody looks after: never alive."""


def this_process() -> Process:
    """The process that asks."""
    pid = os.getpid()
    return Process(pid, _start_time(pid) or 0, _boot_id())


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _start_time(pid: int) -> int | None:
    """In clock ticks since boot; None if no such process runs."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *fields = stat[stat.rindex(b")") + 2 :].decode("ascii").split()
    return None if state in _GONE else int(fields[18])
