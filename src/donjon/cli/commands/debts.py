# SPDX-License-Identifier: Apache-2.0
"""What donjon owes this host and its guests."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from donjon.cli.options import COMMON, Common, Given
from donjon.cli.page import Page
from donjon.cli.result import Deed, Result
from donjon.cli.session import Session
from donjon.cli.session import settle as settle_ledger
from donjon.cli.text import count, moment, utc
from donjon.state.ledger import Debt


@dataclass(frozen=True, slots=True)
class DebtEntry:
    """Something to be undone; `at_work`: the process that did it still runs, and will undo it."""

    id: int
    what: str
    owed_at: datetime
    process: int
    at_work: bool


@dataclass(frozen=True, slots=True)
class DebtList(Result):
    """All that is owed."""

    debts: tuple[DebtEntry, ...]

    def show(self, page: Page) -> None:
        """A table; nothing if nothing is owed."""
        if self.debts:
            rows = [
                (str(debt.id), moment(debt.owed_at), f"at work ({debt.process})" if debt.at_work else "left", debt.what)
                for debt in self.debts
            ]
            page.table(("id", "since", "by", "what"), rows)


@dataclass(frozen=True, slots=True)
class Settled(Deed):
    """What was undone, and what could not be."""

    undone: tuple[DebtEntry, ...]
    left: tuple[DebtEntry, ...]

    def show(self, page: Page) -> None:
        """Each in a line."""
        for debt in self.undone:
            page.line(f"undone: {debt.what}")
        for debt in self.left:
            page.line(f"still owed: {debt.what}")
        if not (self.undone or self.left):
            page.line("nothing was left to undo")
        elif self.left:
            page.line(f"{count(len(self.left), 'debt')} cannot be undone yet: look at what they name, then try again")

    @property
    def exit_code(self) -> int:
        """3 if something is still owed."""
        return 3 if self.left else 0


def owed(*, common: Common = COMMON, program: Given) -> DebtList:
    """Show what donjon has still to undo on this host.

    Whatever donjon does to a guest or host is written down before it is done, and struck off once it is undone. While
    nothing runs, this prints nothing.

    Examples:
        donjon owed
    """
    del common
    with program.open_ledger() as ledger:
        return DebtList(tuple(map(_entry, ledger.debts())))


def settle(*, common: Common = COMMON, program: Given) -> Settled:
    """Undo what an interrupted run left behind.

    `backup` and `restore` do this first, too. What a process at work owes is left to it.

    Examples:
        donjon settle
    """
    with program.open_ledger(Session(common, program).warn) as ledger:
        undone, left = settle_ledger(ledger)
        return Settled(tuple(map(_entry, undone)), tuple(map(_entry, left)))


def _entry(debt: Debt) -> DebtEntry:
    return DebtEntry(debt.id, str(debt), utc(debt.owed_at), debt.owner_pid, debt.owner.is_alive())
