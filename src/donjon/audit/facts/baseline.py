# SPDX-License-Identifier: Apache-2.0
"""Files whose change must be approved: hooks, and hashes of critical configuration.

Lines that hold a secret are left out before a file is hashed, on the target: a hash of a short password can be guessed.
"""

from __future__ import annotations

import re

from msgspec import Struct

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Fact, derived

_HASH = re.compile(r"(?:hash )?([0-9a-f]{64}) [ *]?(/.*)")


class Hook(Struct, frozen=True):
    """A program that libvirt, Xen or an agent runs as root. `package`: whose it is, "" for nobody's."""

    path: str
    sha256: str
    package: str = ""
    changed: bool = False
    """The package manager says that it is not as it was delivered."""


class Baseline(Struct, frozen=True):
    """`hashes`: path -> SHA-256, of a fixed list of critical files: those that exist, "" where one may not be read."""

    hooks: Fact[tuple[Hook, ...]]
    hashes: Fact[dict[str, str]]


def read_baseline(bundle: Bundle) -> Baseline:
    """From the probes "hooks" and "baseline-hashes"."""
    return Baseline(
        hooks=derived(bundle.output("hooks"), _parse_hooks),
        hashes=derived(bundle.output("baseline-hashes"), _parse_hashes),
    )


def _lines(text: str) -> list[str]:
    lines = text.splitlines()
    if not lines or lines[-1] != "end":
        raise ValueError("the list has no end")
    return lines[:-1]


def _parse_hashes(text: str) -> dict[str, str]:
    found = {}
    for line in _lines(text):
        if line.startswith("unread /"):
            found[line.removeprefix("unread ")] = ""
        elif match := _HASH.fullmatch(line):
            found[match[2]] = match[1]
        else:
            raise ValueError(f"not a hash: {line[:40]!r}")
    return found


def _parse_hooks(text: str) -> tuple[Hook, ...]:
    hashes: dict[str, str] = {}
    owners: dict[str, str] = {}
    changed: set[str] = set()
    for line in _lines(text):
        kind, _, rest = line.partition(" ")
        if match := _HASH.fullmatch(line):
            hashes[match[2]] = match[1]
        elif kind == "owner":
            package, _, path = rest.partition(" ")
            owners[path] = package
        elif kind == "changed":
            changed.add(rest)
        else:
            raise ValueError(f"not a hook: {line[:40]!r}")
    return tuple(Hook(path, digest, owners.get(path, ""), path in changed) for path, digest in sorted(hashes.items()))
