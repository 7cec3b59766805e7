# SPDX-License-Identifier: Apache-2.0
"""How donjon is set up on a host, what backups left behind there, and definitions of VMs that lie about.

Source: virsh(1) of snapshot-list and checkpoint-list; df(1) and stat(1).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime

from msgspec import Struct

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Fact, Known, derived

_REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "ceph", "fuse.glusterfs", "glusterfs", "9p"})
_ROW = re.compile(r"^ (\S.*?)\s{2,}(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4})")


class Endpoint(Struct, frozen=True):
    """A repository: its location as the operator wrote it, and the file system there; "" if nothing is there."""

    location: str
    file_system: str = ""
    device: str = ""

    @property
    def scheme(self) -> str:
        """Nothing for a directory; "rest:http", "sftp", "nbd", ... else."""
        match = re.match(r"(?:(?:rest|s3|swift):https?|[a-z][a-z0-9+]+)(?=:)", self.location)
        return "" if not match or match[0] == "local" else match[0]

    @property
    def remote(self) -> bool:
        """On another machine."""
        return bool(self.scheme) or self.file_system in _REMOTE


class KeyFile(Struct, frozen=True):
    """A file with the password of a repository; `mode` None if it is not there."""

    path: str
    mode: int | None
    user: str
    group: str


class Leftover(Struct, frozen=True):
    """A snapshot or checkpoint of a VM; `taken` in UTC."""

    kind: str
    vm: str
    name: str
    taken: datetime


class Export(Struct, frozen=True):
    """A VM's definition in a file; `secret`: with a password in it."""

    path: str
    mode: int
    user: str
    group: str
    secret: bool


class Setup(Struct, frozen=True):
    """What there is of donjon: programs by path, repositories, files with their passwords."""

    programs: tuple[str, ...]
    repositories: tuple[Endpoint, ...]
    key_files: tuple[KeyFile, ...]


class Recovery(Struct, frozen=True):
    """`units`: path -> text of donjon's own units and what is added to them."""

    setup: Fact[Setup]
    units: Fact[dict[str, str]]
    leftovers: Fact[tuple[Leftover, ...]]
    exports: Fact[tuple[Export, ...]]


def read_recovery(bundle: Bundle) -> Recovery:
    """From the probes "donjon-setup", "vm-leftovers", "plain-definitions", and donjon's units."""
    return Recovery(
        setup=derived(bundle.output("donjon-setup"), _setup),
        units=_units(bundle),
        leftovers=derived(bundle.output("vm-leftovers"), lambda text: tuple(_leftovers(text))),
        exports=derived(bundle.output("plain-definitions"), lambda text: tuple(map(_export, _lines(text)))),
    )


def _units(bundle: Bundle) -> Fact[dict[str, str]]:
    found: dict[str, str] = {}
    for pattern in ("/etc/systemd/system/*donjon*", "/usr/lib/systemd/system/*donjon*"):
        texts = bundle.texts(pattern)
        if not isinstance(texts, Known):
            return texts
        found = texts.value | found
    return Known(found, "/etc/systemd/system/*donjon*")


def _lines(text: str) -> list[list[str]]:
    lines = text.splitlines()
    if not lines or lines.pop() != "end":
        raise ValueError("its end is missing")
    return [line.split("\t") for line in lines]


def _setup(text: str) -> Setup:
    lines = _lines(text)
    if odd := [line[0] for line in lines if line[0] not in {"program", "repository", "keyfile"}]:
        raise ValueError(f"{odd[0][:20]!r} is nothing that is asked for")
    return Setup(
        tuple(line[1] for line in lines if line[0] == "program"),
        tuple(Endpoint(line[1], line[2], line[3]) for line in lines if line[0] == "repository"),
        tuple(KeyFile(line[4], _mode(line[1]), line[2], line[3]) for line in lines if line[0] == "keyfile"),
    )


def _mode(text: str) -> int | None:
    return int(text, 8) if text else None


def _export(line: list[str]) -> Export:
    mode, user, group, flag, path = line
    return Export(path, int(mode, 8), user, group, secret=flag != "no")


def _leftovers(text: str) -> Iterator[Leftover]:
    lines = text.rstrip().splitlines()
    if not lines or lines.pop() != "@end":
        raise ValueError("its end is missing")
    kind = vm = ""
    for line in lines:
        if line.startswith("@"):
            kind, vm = line[1:].split()
        elif row := _ROW.match(line):
            taken = datetime.strptime(row[2], "%Y-%m-%d %H:%M:%S %z").astimezone(UTC)
            yield Leftover(kind.removesuffix("s"), vm, row[1], taken)
        elif line.strip() and not line.lstrip().startswith(("Name", "---")):
            raise ValueError(f"{line[:40]!r} is no line of a table")
