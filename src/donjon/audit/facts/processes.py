# SPDX-License-Identifier: Apache-2.0
"""Processes that run on the host."""

from __future__ import annotations

from msgspec import Struct

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Fact, derived


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
    """Mapped code that has been replaced or removed since; only of what runs for long: QEMU, libvirt, sshd, ..."""


class Processes(Struct, frozen=True):
    """All processes but kernel threads."""

    all: Fact[tuple[Process, ...]]


def read_processes(bundle: Bundle) -> Processes:
    r"""From the probe "processes".

    Its lines, with tabs between: "process PID PARENT UID STARTED NAME EXECUTABLE LABEL ARGUMENT...",
    "deleted PID PATH", and at last "end".
    """
    return Processes(derived(bundle.output("processes"), _parse))


def _parse(text: str) -> tuple[Process, ...]:
    lines = text.strip("\n").split("\n")
    if lines[-1] != "end":
        raise ValueError("the list has no end")
    deleted: dict[int, list[str]] = {}
    rows = []
    for line in lines[:-1]:
        kind, *words = line.split("\t")
        if kind == "deleted":
            deleted.setdefault(int(words[0]), []).append(words[1])
        elif kind == "process":
            rows.append(words)
        else:
            raise ValueError(f"a line begins with {kind[:20]!r}")
    found = tuple(_process(words, deleted) for words in rows)
    if not any(process.pid == 1 for process in found):
        raise ValueError("process 1 is not in it, so others may be hidden, too")
    return found


def _process(words: list[str], deleted: dict[int, list[str]]) -> Process:
    pid, parent, uid, started, name, executable, label, *arguments = words
    return Process(
        pid=int(pid),
        parent=int(parent),
        uid=int(uid),
        name=name,
        arguments=tuple(arguments),
        executable=executable,
        label=label.strip(),
        started=int(started),
        deleted=tuple(sorted(deleted.get(int(pid), ()))),
    )
