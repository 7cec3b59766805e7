# SPDX-License-Identifier: Apache-2.0
"""What hardening hands back, and how it looks on a terminal."""

from __future__ import annotations

from dataclasses import dataclass

from donjon.audit.catalogue import FixClass
from donjon.cli.page import Page
from donjon.cli.result import Deed, Result
from donjon.cli.text import count
from donjon.harden.apply import OnHost, State
from donjon.harden.hunks import diff
from donjon.harden.plan import DocumentStep, FileStep, Instruction, Plan, PlannedChange, Step

_CLASSES = {
    FixClass.AUTOMATIC: "automatic",
    FixClass.GUARDED: "guarded",
    FixClass.NEXT_BOOT: "next boot",
    FixClass.INSTRUCTIONS: "instructions",
}
_MEANINGS = {
    State.APPLYING: "is being applied",
    State.WAITING: "waits to be confirmed",
    State.CONFIRMING: "is being confirmed",
    State.CONFIRMED: "is done",
    State.UNDOING: "is being undone",
    State.REVERTED: "was undone: all is as it was",
    State.NOT_UNDONE: "could not be undone in full: look at the host",
}


@dataclass(frozen=True, slots=True)
class PlanShown(Result):
    """A plan, the file it was written to, and `next`, the command that applies it.

    `unseen`: controls of which something could not be seen when it was made.
    """

    plan: Plan
    written: str | None
    next: str | None
    unseen: tuple[str, ...]

    def show(self, page: Page) -> None:
        """The changes with their diffs, then what is left to a person."""
        plan = self.plan
        changes, instructions = count(len(plan.changes), "change"), count(len(plan.instructions), "instruction")
        page.line(f"{plan.name}: {changes}, {instructions}", bold=True)
        for number, change in enumerate(plan.changes, 1):
            page.line()
            self._show_change(number, change, page)
        if plan.kept:
            page.line()
            page.line(f"never shut out by the firewall: {', '.join(plan.kept)}")
        if plan.instructions:
            page.line()
            page.line("to be done by hand", bold=True)
            for instruction in plan.instructions:
                _show_instruction(instruction, page)
        if self.unseen:
            page.line()
            page.line(f"could not be seen, so nothing is planned for it: {', '.join(self.unseen)}")
        if self.written:
            page.line()
            page.line(f"written: {self.written}; nothing was changed" + (f". Next: {self.next}" if self.next else ""))

    def _show_change(self, number: int, change: PlannedChange, page: Page) -> None:
        page.line(f"{number}. {change.control} ({_CLASSES[change.fix_class]}) {change.title}", bold=True)
        if change.guests:
            page.line(f"   guests that notice: {', '.join(change.guests)}")
        if change.note:
            page.line(f"   {change.note}")
        for step in change.steps:
            _show_step(self.plan.steps[step - 1], page)
        if change.shown:
            page.text(_indented(change.shown))


def _show_step(step: Step, page: Page) -> None:
    page.line(f"   {step.title}")
    if isinstance(step, FileStep | DocumentStep):
        page.text(_indented(diff(step.hunks)))


def _indented(text: str) -> str:
    return "\n".join(f"     {line}" for line in text.splitlines())


def _show_instruction(one: Instruction, page: Page) -> None:
    page.line(f"  {one.control:<8} {one.summary}")
    page.line(f"{'':11}{one.text}" + (f" (not done here: {one.reason})" if one.reason else ""))


@dataclass(frozen=True, slots=True)
class Reached(Deed):
    """How far a plan has come. If it waits: `undone_after` how many seconds, and `next`, the command that keeps it."""

    plan: str
    state: State
    host: str
    undone_after: int
    next: str | None

    def show(self, page: Page) -> None:
        """What became of it, and what comes next."""
        page.line(f"{self.host}: plan {self.plan} {_MEANINGS[self.state]}")
        if self.next:
            page.line(f"unless this is done within {self.undone_after} s, all of it is undone:")
            page.line(f"  {self.next}")


@dataclass(frozen=True, slots=True)
class PlansOnHost(Result):
    """The plans a host knows of."""

    plans: tuple[OnHost, ...]

    def show(self, page: Page) -> None:
        """A line for each."""
        for one in self.plans:
            page.line(f"{one.plan} {_MEANINGS[one.state]}")
        if not self.plans:
            page.line("none")
