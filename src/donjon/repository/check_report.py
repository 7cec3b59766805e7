# SPDX-License-Identifier: Apache-2.0
"""What a check finds: what is damaged, which restore points that touches, and what to do next."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class Place(NamedTuple):
    """A file or directory of a restore point: the snapshot's id in hex, the path within it."""

    snapshot: str
    path: str

    def __str__(self) -> str:
        return f"{self.snapshot[:8]}:{self.path}"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be.

    `what` names a file of the repository, as "data/0123..", or "tree 0123..". `affected` lists the places that cannot
    be relied on for it; empty if no restore point needs what is damaged.
    """

    what: str
    sentence: str
    next_step: str
    affected: tuple[Place, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The outcome of a check; `hints` are no damage. `bytes_read` counts packs read in full."""

    errors: tuple[Problem, ...]
    hints: tuple[Problem, ...]
    index_files: int = 0
    packs: int = 0
    blobs: int = 0
    snapshots: int = 0
    trees: int = 0
    packs_read: int = 0
    bytes_read: int = 0

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged, as far as was looked."""
        return not self.errors

    @property
    def affected(self) -> frozenset[str]:
        """Ids of all snapshots that damage touches."""
        return frozenset(place.snapshot for error in self.errors for place in error.affected)


@dataclass(slots=True)
class _Open:
    sentences: list[str]
    next_step: str
    affected: set[Place] = field(default_factory=set)

    def close(self, what: str) -> Problem:
        return Problem(what, "; ".join(self.sentences), self.next_step, tuple(sorted(self.affected)))


class Findings:
    """Problems as they come up, one for each thing that has any."""

    def __init__(self) -> None:
        self._errors: dict[str, _Open] = {}
        self._hints: dict[str, _Open] = {}

    def error(self, what: object, sentence: str, next_step: str) -> None:
        """Note damage; said twice of one thing, the first next step stands."""
        self._errors.setdefault(str(what), _Open([], next_step)).sentences.append(sentence)

    def hint(self, what: object, sentence: str, next_step: str) -> None:
        """Note what is odd, yet harmless."""
        self._hints.setdefault(str(what), _Open([], next_step)).sentences.append(sentence)

    def affects(self, what: str, place: Place) -> None:
        """Note that a place cannot be relied on, for the damage to `what`."""
        self._errors[what].affected.add(place)

    @property
    def errors(self) -> tuple[Problem, ...]:
        """All damage so far."""
        return tuple(found.close(what) for what, found in self._errors.items())

    @property
    def hints(self) -> tuple[Problem, ...]:
        """All oddities so far."""
        return tuple(found.close(what) for what, found in self._hints.items())
