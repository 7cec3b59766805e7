# SPDX-License-Identifier: Apache-2.0
"""Processes that run on the host."""

from __future__ import annotations

from msgspec import Struct

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Fact, Unknown


class Process(Struct, frozen=True):
    """A process.

    `arguments` have secrets blanked; `executable` is the target of /proc/PID/exe, " (deleted)" kept; `label` is
    /proc/PID/attr/current, "" if there is none; `started` in seconds since 1970.
    """

    pid: int
    parent: int
    uid: int
    name: str
    arguments: tuple[str, ...]
    executable: str = ""
    label: str = ""
    started: int = 0
    deleted: tuple[str, ...] = ()
    """Mapped files that have been replaced or removed since."""


class Processes(Struct, frozen=True):
    """All processes but kernel threads."""

    all: Fact[tuple[Process, ...]]


def read_processes(bundle: Bundle) -> Processes:
    """From the probe "processes"."""
    return Processes(Unknown("not read yet"))
