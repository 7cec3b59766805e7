# SPDX-License-Identifier: Apache-2.0
"""Baselines: a host's critical files as they are now, to be approved in a profile (control CFG-08)."""

from __future__ import annotations

from dataclasses import dataclass
from glob import escape

import msgspec

from donjon.audit.fact import Unseen, need
from donjon.cli.commands.audit_hosts import Bundles, Places, look_at
from donjon.cli.commands.audit_result import NotCollected
from donjon.cli.options import COMMON, Common, Given
from donjon.cli.page import Page
from donjon.cli.result import Result
from donjon.cli.session import Session
from donjon.errors import IncompleteError

_PLACES = Places()


@dataclass(frozen=True, slots=True)
class Baselines(Result):
    """`baseline` as in a profile: pattern of host names -> path -> SHA-256; `unread`: host -> files nobody may read."""

    baseline: dict[str, dict[str, str]]
    unread: dict[str, tuple[str, ...]]
    not_collected: tuple[NotCollected, ...]

    @property
    def exit_code(self) -> int:
        """3 if a host or a file could not be looked at."""
        return IncompleteError.exit_code if self.not_collected or self.unread else 0

    def show(self, page: Page) -> None:
        """TOML to be put into a profile; what is missing as comments."""
        for one in self.not_collected:
            page.line(f"# not looked at: {one.host}: {one.error}")
        for host, paths in self.unread.items():
            for path in paths:
                page.line(f"# may not be read: {path} on {host}")
        page.raw(msgspec.toml.encode({"baseline": self.baseline}).decode())


def baseline(*, places: Places = _PLACES, bundle: Bundles = (), common: Common = COMMON, program: Given) -> Baselines:
    """Print the hashes of a host's critical files as a profile's table [baseline].

    Whoever puts it into a profile approves these files as they are now: look at them first. From then on the audit
    tells of each that changes, comes or goes (CFG-08). Ends with 3 if a host or a file could not be read.

    Examples:
        donjon audit baseline >>ours.toml

        donjon audit baseline --bundle kvm1.tar --bundle kvm2.tar
    """
    looked = look_at(places, bundle, Session(common, program))
    approved: dict[str, dict[str, str]] = {}
    unread: dict[str, tuple[str, ...]] = {}
    failed = list(looked.failed)
    for host in looked.hosts:
        name = host.platform.name
        try:
            hashes = need(host.baseline.hashes)
        except Unseen as unseen:
            failed.append(NotCollected(name, str(unseen), None))
            continue
        if escape(name) in approved:
            failed.append(NotCollected(name, "another host has this name", "ask for them one at a time"))
            continue
        approved[escape(name)] = {path: digest for path, digest in sorted(hashes.items()) if digest}
        if lacking := tuple(sorted(path for path, digest in hashes.items() if not digest)):
            unread[name] = lacking
    return Baselines(approved, unread, tuple(failed))
