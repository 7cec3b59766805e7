# SPDX-License-Identifier: Apache-2.0
"""Advisories for sites without a network: made on a machine that has one, imported where there is none."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from donjon.audit.advisories import advisory_file
from donjon.audit.advisories.data import Advisories
from donjon.audit.profile import Ages
from donjon.cli.commands.audit_beside import advisories_folder
from donjon.cli.options import COMMON, Common, Given
from donjon.cli.page import Page
from donjon.cli.result import Deed
from donjon.cli.session import Session


@dataclass(frozen=True, slots=True)
class ReleaseKnown:
    """A release of an operating system; `dated` is how new its advisories are."""

    release: str
    dated: date
    advisories: int


@dataclass(frozen=True, slots=True)
class KnownHoles(Deed):
    """Advisories that were built or imported, and where they are."""

    path: str
    built: date
    releases: tuple[ReleaseKnown, ...]
    exploited: int

    def show(self, page: Page) -> None:
        """A line for each release."""
        for one in self.releases:
            page.line(f"{one.release}: {one.advisories} advisories of {one.dated}")
        page.line(f"{self.exploited} CVEs are known to be exploited")
        page.line(f"written: {self.path}")


def build(
    *sources: Annotated[Path, Parameter(metavar="FILE|DIR", help="What vendors publish; see below.")],
    key: Annotated[Path, Parameter(metavar="FILE", help="Private Ed25519 key of ssh-keygen, without passphrase.")],
    output: Annotated[Path, Parameter(name=["--output", "-o"], metavar="FILE", help="Takes the advisories.")],
    common: Common = COMMON,
) -> KnownHoles:
    """Make one signed file of what vendors publish about holes in their packages.

    Sources are the JSON of Debian's security tracker, OVAL of Red Hat and Oracle, CSAF documents, and the catalogue of
    known exploited vulnerabilities, as they were downloaded; .gz and .bz2 are read, too.

    Examples:
        donjon advisories build --key ~/.ssh/id_ed25519 -o advisories.donjon downloads/
    """
    del common
    made = advisory_file.build(sources, key, output, datetime.now(UTC).date())
    return _shown(made, output)


def import_advisories(
    file: Annotated[Path, Parameter(metavar="FILE", help="File of `donjon advisories build`.")],
    /,
    *,
    trust: Annotated[Path, Parameter(metavar="FILE", help="Public keys that may sign, a line for each (.pub).")],
    max_age: Annotated[int, Parameter(metavar="DAYS", help="Refuse what is older.")] = Ages().advisories,
    common: Common = COMMON,
    program: Given,
) -> KnownHoles:
    """Take a file of advisories over, if a trusted key signed it and it is neither stale nor older than what is there.

    Examples:
        donjon advisories import advisories.donjon --trust /etc/donjon/advisories.pub
    """
    folder = advisories_folder(Session(common, program))
    taken = advisory_file.import_(file, trust, folder, datetime.now(UTC).date(), max_age)
    return _shown(taken, folder)


def _shown(advisories: Advisories, path: Path) -> KnownHoles:
    releases = tuple(ReleaseKnown(name, feed.dated, len(feed.fixes)) for name, feed in sorted(advisories.feeds.items()))
    return KnownHoles(str(path), advisories.built, releases, len(advisories.exploited))
