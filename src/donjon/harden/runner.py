# SPDX-License-Identifier: Apache-2.0
"""How scripts get onto a host: here, or over the system's ssh."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from donjon import host_command


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


class LocalRunner:
    """The host donjon runs on."""

    def __init__(self, root: str = "") -> None:
        """`root`: a folder that stands for the host's file system, for trying things out."""
        self._root = root

    def run(self, script: bytes, *, timeout_s: float) -> Output:
        """See `Runner`."""
        done = host_command.run(
            ["sh", "-s"], input=script, timeout_s=timeout_s, check=False, env={"DONJON_ROOT": self._root}
        )
        return Output(done.returncode, done.stdout, done.stderr)

    def fresh(self) -> Runner:
        """See `Runner`; without a connection, it is donjon's process that must be a new one."""
        return self


class SshRunner:
    """A host that ssh knows as `destination`; `options` are ssh's own. Needs root there, or sudo without password."""

    def __init__(self, destination: str, options: Sequence[str] = (), *, sudo: bool = True) -> None:
        self._destination = destination
        self._options = tuple(options)
        self._sudo = sudo

    def run(self, script: bytes, *, timeout_s: float) -> Output:
        """See `Runner`."""
        shell = "sudo -n sh -s" if self._sudo else "sh -s"
        argv = ["ssh", "-T", "-o", "BatchMode=yes", *self._options, "--", self._destination, shell]
        done = host_command.run(argv, input=script, timeout_s=timeout_s, check=False)
        return Output(done.returncode, done.stdout, done.stderr)

    def fresh(self) -> Runner:
        """See `Runner`."""
        alone = ("-o", "ControlMaster=no", "-o", "ControlPath=none")
        return SshRunner(self._destination, (*alone, *self._options), sudo=self._sudo)
