# SPDX-License-Identifier: Apache-2.0
"""Runs a command as a whole process and says what it cost, as the kernel counted it.

Source: wait4(2), getrusage(2), proc(5) (/proc/PID/io). Child processes count as soon as the command has waited for
them. Peak memory is that of the largest process, and never below this program's own (the kernel carries it over
exec), which is why nothing large is imported here.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


class BenchError(Exception):
    """A command failed, or gave a wrong result: its figures mean nothing."""


@dataclass(frozen=True)
class Command:
    """A program to run; `environment` is added to ours, `stdin` is a file to feed it."""

    argv: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    stdin: Path | None = None


@dataclass(frozen=True)
class Cost:
    """What a run cost; sizes in bytes. `read_bytes` counts every read(2), from the page cache or not."""

    wall_s: float
    cpu_s: float
    rss_bytes: int
    read_bytes: int


def run(command: Command, log: Path) -> Cost:
    """Run to the end, with all it says going to `log`.

    Raises:
        BenchError: it cannot be started or its exit status is not 0.
    """
    with Path(command.stdin or os.devnull).open("rb") as stdin, log.open("wb") as output:
        begin = time.perf_counter()
        try:
            process = subprocess.Popen(
                command.argv,
                env={**os.environ, "LC_ALL": "C.UTF-8", **command.environment},
                cwd=command.folder,
                stdin=stdin,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            raise BenchError(f"cannot run {command.argv[0]}: {error.strerror}") from error
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        wall_s = time.perf_counter() - begin
    read_bytes = _read_bytes(process.pid)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        tail = log.read_text(errors="replace")[-2000:]
        raise BenchError(f"cannot measure `{' '.join(command.argv)}`: exit status {process.returncode}\n{tail}")
    return Cost(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, read_bytes)


def _read_bytes(pid: int) -> int:
    """Of a process that has ended and has not been waited for yet, and of the children it had waited for."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])
