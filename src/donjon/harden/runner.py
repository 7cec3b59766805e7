# SPDX-License-Identifier: Apache-2.0
"""How scripts get onto a host: the way the collector does."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from donjon import host_command
from donjon.audit.collect.target import Target

_ALIVE = ("-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3")
"""Whoever has cut himself off learns of it before the confirm is due."""


class Output(NamedTuple):
    """How a script ended, and what it printed."""

    rc: int
    out: bytes
    err: bytes

    @property
    def complaint(self) -> str:
        """What it complained of, the last lines of it."""
        lines = self.err.decode(errors="replace").strip().splitlines()
        return "; ".join(lines[-4:]) or f"it ended with exit status {self.rc}"


class Runner(Protocol):
    """Runs sh as root on one host."""

    def run(self, script: bytes, *, timeout_s: float) -> Output:
        """Run the script; however it ends, that is no error.

        Raises:
            HostError: the host cannot be reached, or it takes too long.
        """

    def fresh(self) -> Runner:
        """The same host over a connection that is new each time, and shared with nobody."""


class HostRunner:
    """A host as it can be audited, too: this one, or one that ssh reaches."""

    def __init__(self, target: Target, ssh_options: Sequence[str] = (), root: str = "") -> None:
        """`ssh_options` are ssh's own; `root`: a folder that stands for the host's file system, to try things out."""
        self._target = target
        self._options = tuple(ssh_options)
        self._root = root

    def run(self, script: bytes, *, timeout_s: float) -> Output:
        """See `Runner`."""
        program, *words = self._target.shell()
        options = (*self._options, *_ALIVE) if self._target.host else ()
        text = f"DONJON_ROOT={shlex.quote(self._root)}\nexport DONJON_ROOT\n".encode() + script
        done = host_command.run([program, *options, *words], input=text, timeout_s=timeout_s, check=False)
        return Output(done.returncode, done.stdout, done.stderr)

    def fresh(self) -> Runner:
        """See `Runner`; without a connection, it is donjon's process that must be a new one."""
        alone = ("-o", "ControlMaster=no", "-o", "ControlPath=none")
        return HostRunner(self._target, (*alone, *self._options), self._root)
