# SPDX-License-Identifier: Apache-2.0
"""Making a repository."""

from __future__ import annotations

from dataclasses import dataclass

from donjon.cli.options import COMMON, Common, Given
from donjon.cli.page import Page
from donjon.cli.result import Deed
from donjon.cli.session import Session


@dataclass(frozen=True, slots=True)
class Created(Deed):
    """A new repository."""

    id: str
    location: str

    def show(self, page: Page) -> None:
        """Where, and a warning worth more than any other."""
        page.line(f"made repository {self.id[:10]} at {self.location}")
        page.line("keep its password in a second place: without it, nothing in the repository can be read again")


def init(*, common: Common = COMMON, program: Given) -> Created:
    """Make a new repository.

    It is encrypted, and in the format of restic (version 2): `restic -r PLACE` opens it with the same password.
    The place need not exist yet; there must be no repository in it, nor keys or snapshots that are left of one.

    Examples:
        donjon init -r /backup/vms

        donjon init -r /backup/vms --password-file /etc/donjon/main.password
    """
    repository = Session(common, program).create_repository()
    return Created(repository.config.id, repository.store.location)
