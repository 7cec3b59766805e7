# SPDX-License-Identifier: Apache-2.0
"""Cases of controls: a piece of a bundle, and what the control must say of it; read from tests/data/controls/*.toml.

A case names only what its control looks at; everything else of the host is unknown. `kinds` is put in for it.
"""

from __future__ import annotations

from datetime import date
from functools import cache
from pathlib import Path

import msgspec
from msgspec import Struct, field

from donjon.audit.advisories.data import Advisories
from donjon.audit.bundle import Bundle, Manifest, Output, PathInfo, Paths
from donjon.audit.facts.backup import Backup
from donjon.audit.facts.guests import Gold, Guest
from donjon.audit.facts.host import Host, read_host
from donjon.audit.judge import Result, judge
from donjon.audit.profile import Profile
from donjon.audit.verdict import Severity

FOLDER = Path(__file__).parents[2] / "data" / "controls"


class Answer(Struct, frozen=True, forbid_unknown_fields=True):
    """What a probe said, where its exit code matters."""

    rc: int = 0
    out: str = ""
    err: str = ""


class Machine(Struct, frozen=True, forbid_unknown_fields=True):
    """A piece of a bundle.

    `absent`: paths and patterns that were asked for, whether they matched or not. `paths`: "0644 root:root", with a
    letter of `find` before it if it is no file ("d 0755 root:root"), and mtime
    (of a link, its target) after it. `looked`: root -> depth.
    """

    kinds: str = "K"
    name: str = "host1"
    started: str = "2026-11-20T12:00:00+00:00"
    commands: dict[str, str | Answer] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    looked: dict[str, int] = field(default_factory=dict)
    backup: Backup = field(default_factory=Backup)
    guests: dict[str, Guest] = field(default_factory=dict)
    gold: tuple[Gold, ...] | None = None


class Case(Struct, frozen=True, forbid_unknown_fields=True):
    """`expect`: status of the subject; without `subject`, the worst of all: fail, unknown, manual, pass, na.

    `origin` is "synthetic", or "recorded: WHERE". `others`: further hosts of the fleet. `profile` as in its own file.
    """

    name: str
    expect: str
    origin: str
    subject: str | None = None
    severity: Severity | None = None
    says: str = ""
    today: date = date(2026, 11, 23)
    profile: Profile = field(default_factory=lambda: Profile("case"))
    machine: Machine = field(default_factory=Machine)
    others: tuple[Machine, ...] = ()
    advisories: Advisories | None = None


class Cases(Struct, frozen=True, forbid_unknown_fields=True):
    """A file: the cases of one control."""

    case: tuple[Case, ...]


@cache
def all_cases() -> tuple[tuple[str, Case], ...]:
    return tuple(
        (path.stem, case)
        for path in sorted(FOLDER.glob("*.toml"))
        for case in msgspec.toml.decode(path.read_bytes(), type=Cases).case
    )


def bundle_of(machine: Machine) -> Bundle:
    commands = {
        probe: Output(0, said) if isinstance(said, str) else Output(said.rc, said.out, said.err)
        for probe, said in machine.commands.items()
    }
    words = {"K": "libvirt-qemu", "X": "xl", "O": "oracle-vm"}
    commands.setdefault("hypervisors", Output(0, "\n".join(words[kind] for kind in machine.kinds)))
    return Bundle(
        Manifest(host=machine.name, started=machine.started),
        commands,
        machine.files,
        frozenset(machine.absent),
        machine.refused,
        Paths({path: _path(path, text) for path, text in machine.paths.items()}, machine.looked, machine.refused),
    )


def host_of(machine: Machine) -> Host:
    host = read_host(bundle_of(machine))
    return msgspec.structs.replace(host, backup=machine.backup, guests=machine.guests, gold=machine.gold)


def results_of(control: str, case: Case) -> list[Result]:
    fleet = [host_of(machine) for machine in (case.machine, *case.others)]
    report = judge(fleet, case.profile, case.today, (control,), case.advisories)
    return [one for one in report.results if one.host == fleet[0].platform.id]


def _path(path: str, text: str) -> PathInfo:
    kind, text = (text[0], text[2:]) if text[1] == " " else ("f", text)
    mode, owner, *more = text.split()
    target, mtime = ("".join(more), "0") if kind == "l" else ("", "".join(more) or "0")
    user, group = owner.split(":")
    return PathInfo(
        path,
        int(mode, 8),
        0 if user == "root" else 1000,
        0 if group == "root" else 1000,
        user,
        group,
        kind,
        mtime=int(mtime),
        target=target,
    )
