# SPDX-License-Identifier: Apache-2.0
"""Care of the repository: check, statistics, repair, locks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from donjon.cli.options import COMMON, Common, Given, NoLock
from donjon.cli.page import Page
from donjon.cli.result import Deed, Result
from donjon.cli.session import Session
from donjon.cli.text import count, size
from donjon.model.progress import Progress
from donjon.repository import lock
from donjon.repository.check import check as check_repository
from donjon.repository.pack_reading import Subset
from donjon.repository.repair import SavedPack
from donjon.repository.repair import repair_index as rebuild_index
from donjon.repository.stats import compute_stats
from donjon.repository.store import FileType


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that is not as it should be; `affected` are the paths that need it, as SNAPSHOT:PATH."""

    what: str
    sentence: str
    next_step: str
    affected: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Checked(Result):
    """The outcome of a check; sizes in bytes."""

    sound: bool
    errors: tuple[Damage, ...]
    hints: tuple[Damage, ...]
    snapshots: int
    packs: int
    blobs: int
    packs_read: int
    bytes_read: int

    def show(self, page: Page) -> None:
        """Each damage in a paragraph, then the verdict."""
        for kind, problems in (("damaged", self.errors), ("odd", self.hints)):
            for problem in problems:
                page.line(f"{kind}: {problem.what}: {problem.sentence}", bold=kind == "damaged")
                for place in problem.affected:
                    page.line(f"  touches {place}")
                page.line(f"  do: {problem.next_step}")
        what = f"{count(self.snapshots, 'snapshot')}, {count(self.packs, 'pack')}, {count(self.blobs, 'blob')}"
        read = f"; {count(self.packs_read, 'pack')} ({size(self.bytes_read)}) read in full" if self.packs_read else ""
        verdict = "the repository is sound" if self.sound else f"{count(len(self.errors), 'error')} found"
        page.line(f"{verdict}: looked at {what}{read}")
        if self.sound and not self.packs_read:
            page.line("the data itself was not read; --read-data does")

    @property
    def exit_code(self) -> int:
        """1 if anything is damaged."""
        return 0 if self.sound else 1


@dataclass(frozen=True, slots=True)
class Statistics(Result):
    """What the repository holds; sizes in bytes, ratios say how many times smaller."""

    snapshots: int
    restore_size: int
    plain_size: int
    stored_size: int
    blobs: int
    dedup_ratio: float
    compression_ratio: float

    def show(self, page: Page) -> None:
        """What it would be, what it is."""
        page.facts(
            [
                ("snapshots", str(self.snapshots)),
                ("restored, all of them", size(self.restore_size)),
                ("without what is there twice", f"{size(self.plain_size)} ({self.dedup_ratio:.1f} times smaller)"),
                ("stored", f"{size(self.stored_size)} ({self.compression_ratio:.1f} times smaller again)"),
                ("blobs", str(self.blobs)),
            ]
        )


@dataclass(frozen=True, slots=True)
class Unlocked(Deed):
    """How many locks were removed."""

    removed: int

    def show(self, page: Page) -> None:
        """One line."""
        page.line(f"removed {count(self.removed, 'lock')}")


@dataclass(frozen=True, slots=True)
class Repaired(Deed):
    """What a repair did, or with `dry_run` would do; ids of packs and index files."""

    dry_run: bool
    adopted: tuple[str, ...]
    missing: tuple[str, ...]
    damaged: tuple[SavedPack, ...]
    unreadable: tuple[str, ...]
    rewritten: tuple[str, ...]
    unreadable_index: tuple[str, ...]

    def show(self, page: Page) -> None:
        """Each in a line, then the sum."""
        lines = [
            *(f"pack {name} is in the index now" for name in self.adopted),
            *(f"pack {name} is missing, and not in the index any more" for name in self.missing),
            *(
                f"pack {pack.id} was damaged: {count(pack.saved, 'blob')} saved, {pack.lost} lost"
                for pack in self.damaged
            ),
            *(f"pack {name} cannot be read and no index names it: left alone" for name in self.unreadable),
            *(f"index {name} is replaced" for name in self.rewritten),
            *(f"index {name} could not be read and is replaced" for name in self.unreadable_index),
        ]
        for line in lines:
            page.line(f"would do: {line}" if self.dry_run else line)
        if not lines:
            page.line("nothing to repair")
        elif not self.dry_run:
            page.line("now run `donjon check`, then `donjon backup`: what was lost is stored again if it still exists")


def check(
    *,
    read_data: Annotated[bool, Parameter(help="Read every pack, and prove every block.")] = False,
    read_data_subset: Annotated[
        str | None, Parameter(metavar="PART", help="Read part of the packs: 2/7, 12.5% or 50G.")
    ] = None,
    no_lock: NoLock = False,
    common: Common = COMMON,
    program: Given,
) -> Checked:
    """Find out whether the repository is sound.

    Without options the structure is checked: that every file, restore point and block is there. Only reading the data
    shows whether storage has kept it. Exit code 1 if anything is damaged.

    Examples:
        donjon check

        donjon check --read-data

        donjon check --read-data-subset 2/7     on the second day of the week
    """
    session = Session(common, program)
    subset = Subset.parse(read_data_subset) if read_data_subset else Subset() if read_data else None
    repository = session.open_repository()
    with session.progress() as progress:
        report = check_repository(repository, read_data=subset, no_lock=no_lock, progress=_absolute(progress))
    errors, hints = (
        tuple(Damage(p.what, p.sentence, p.next_step, tuple(map(str, p.affected))) for p in problems)
        for problems in (report.errors, report.hints)
    )
    return Checked(
        sound=report.sound,
        errors=errors,
        hints=hints,
        snapshots=report.snapshots,
        packs=report.packs,
        blobs=report.blobs,
        packs_read=report.packs_read,
        bytes_read=report.bytes_read,
    )


def stats(*, no_lock: NoLock = False, common: Common = COMMON, program: Given) -> Statistics:
    """Show what the repository holds, and what it saves.

    Examples:
        donjon stats
    """
    with Session(common, program).reading(no_lock=no_lock) as repository:
        found = compute_stats(repository)
    return Statistics(
        snapshots=found.snapshots,
        restore_size=found.restore_size,
        plain_size=found.plain_size,
        stored_size=found.stored_size,
        blobs=found.blobs,
        dedup_ratio=found.dedup_ratio,
        compression_ratio=found.compression_ratio,
    )


def unlock(
    *,
    remove_all: Annotated[
        bool, Parameter(help="Remove all locks; only while nobody at all uses the repository.")
    ] = False,
    common: Common = COMMON,
    program: Given,
) -> Unlocked:
    """Remove the locks of processes that have died.

    Examples:
        donjon unlock
    """
    repository = Session(common, program).open_repository()
    return Unlocked(lock.unlock(repository.files, remove_all=remove_all))


def repair_index(
    *,
    read_all_packs: Annotated[
        bool, Parameter(help="Read and prove every pack, not only those whose size is wrong.")
    ] = False,
    dry_run: Annotated[bool, Parameter(help="Say what would be done, and do nothing.")] = False,
    common: Common = COMMON,
    program: Given,
) -> Repaired:
    """Build the index anew from the packs.

    Nothing is thrown away that could still be read: damaged packs are put aside once their sound blocks are stored
    anew.

    Examples:
        donjon repair index --dry-run

        donjon repair index --read-all-packs
    """
    session = Session(common, program)
    repository = session.open_repository()
    with session.progress() as progress:
        progress.begin("reading packs", sum(pack.size for pack in repository.store.list(FileType.PACK)))
        report = rebuild_index(repository, read_all_packs=read_all_packs, dry_run=dry_run, progress=progress.advance)
    return Repaired(
        dry_run=report.dry_run,
        adopted=tuple(report.adopted),
        missing=tuple(report.missing),
        damaged=tuple(report.damaged),
        unreadable=tuple(report.unreadable),
        rewritten=tuple(report.rewritten),
        unreadable_index=tuple(report.unreadable_index),
    )


def _absolute(progress: Progress) -> Callable[[int, int], None]:
    """For who tells how much is done in all, and of how much."""
    said = begun = 0

    def advance(done: int, total: int) -> None:
        nonlocal said, begun
        if total != begun:
            begun, said = total, 0
            progress.begin("reading packs", total)
        progress.advance(done - said)
        said = done

    return advance
